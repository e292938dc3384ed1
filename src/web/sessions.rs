//! Those who have logged in with a browser: a random token each, in memory alone. A restart logs everybody out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::output::access::{RtspAccess, User};
use vision::error::{Error, Result};

/// Sessions at a time; a further one ends the one that was idle for longest.
const MOST: usize = 256;
/// A session that nobody uses ends.
const IDLE: Duration = Duration::from_secs(12 * 3600);
/// Any session ends.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A session.
#[derive(Debug)]
struct Session {
    /// Entry and all: with another password the session ends.
    user: User,
    began: Instant,
    used: Instant,
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins a session; gives its token, 64 hexadecimal digits.
    ///
    /// # Errors
    /// Fatal if the system has no random numbers.
    pub(super) fn begin(&self, user: &User, now: Instant) -> Result<String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::fatal("the system gives no random numbers").caused_by(e))?;
        let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let mut all = self.all();
        all.retain(|_, session| is_young(session, now));
        if all.len() >= MOST {
            let idle = all.iter().min_by_key(|(_, session)| session.used);
            if let Some(token) = idle.map(|(token, _)| token.clone()) {
                all.remove(&token);
            }
        }
        let session = Session {
            user: user.clone(),
            began: now,
            used: now,
        };
        all.insert(token.clone(), session);
        Ok(token)
    }

    /// The user of a token whose session goes on, if the rules still know that user.
    pub(super) fn user(&self, token: &str, rules: &RtspAccess, now: Instant) -> Option<String> {
        let mut all = self.all();
        let session = all.get_mut(token)?;
        if !is_young(session, now) || !rules.users.contains(&session.user) {
            all.remove(token);
            return None;
        }
        session.used = now;
        Some(session.user.name().to_owned())
    }

    /// Ends a session.
    pub(super) fn end(&self, token: &str) {
        self.all().remove(token);
    }
}

fn is_young(session: &Session, now: Instant) -> bool {
    now.saturating_duration_since(session.used) < IDLE
        && now.saturating_duration_since(session.began) < LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(password: &str) -> RtspAccess {
        RtspAccess {
            users: vec![User::new("ann", password).unwrap()],
            ..RtspAccess::default()
        }
    }

    #[test]
    fn a_session_ends_when_it_is_idle_old_ended_or_its_user_changes() {
        let (sessions, begun, known) = (Sessions::default(), Instant::now(), rules("x"));
        let begin = || sessions.begin(&known.users[0], begun).unwrap();
        let user = |token: &str, after: Duration| sessions.user(token, &known, begun + after);
        let ann = Some("ann".to_owned());

        let token = begin();
        assert_eq!((token.len(), user(&token, Duration::ZERO)), (64, ann.clone()));
        assert_eq!(user("0", Duration::ZERO), None);
        // Used every now and then it goes on, up to its longest.
        let mut after = Duration::ZERO;
        while after < LONGEST - IDLE {
            after += IDLE / 2;
            assert_eq!(user(&token, after), ann);
        }
        assert_eq!(user(&token, LONGEST), None);

        let token = begin();
        assert_eq!(user(&token, IDLE), None);
        let token = begin();
        sessions.end(&token);
        assert_eq!(user(&token, Duration::ZERO), None);
        let token = begin();
        assert_eq!(
            sessions.user(&token, &rules("y"), begun),
            None,
            "another password"
        );
        assert_eq!(user(&token, Duration::ZERO), None, "it was ended");
    }

    #[test]
    fn sessions_are_bounded_and_the_idlest_goes() {
        let (sessions, begun, known) = (Sessions::default(), Instant::now(), rules("x"));
        let second = Duration::from_secs(1);
        let tokens: Vec<String> = (0..MOST as u32)
            .map(|n| sessions.begin(&known.users[0], begun + n * second).unwrap())
            .collect();
        let now = begun + MOST as u32 * second;
        assert!(sessions.user(&tokens[0], &known, now).is_some());
        sessions.begin(&known.users[0], now).unwrap();
        assert_eq!(sessions.all().len(), MOST);
        assert!(sessions.user(&tokens[0], &known, now).is_some());
        assert!(sessions.user(&tokens[1], &known, now).is_none());
    }
}
