//! One choice for each distinct wish: pipelines that want the same share the backend, and with it the weights.

use std::sync::{Arc, Mutex};

use tracing::info;

use super::{Choice, ChoiceOptions};
use vision::error::Result;
use vision::model::Model;

/// Decides once for each model and way to run it, and says once why. For all pipelines of a process.
#[derive(Default)]
pub struct Chooser {
    decided: Mutex<Vec<Entry>>,
}

/// What was decided, or is just being decided by the one who holds the lock.
type Slot = Arc<Mutex<Option<Choice>>>;

struct Entry {
    options: ChoiceOptions,
    model: Model,
    slot: Slot,
}

impl Entry {
    /// Whether somebody is deciding, or runs what was decided.
    fn is_in_use(&self) -> bool {
        let deciding = Arc::strong_count(&self.slot) > 1;
        let Ok(slot) = self.slot.try_lock() else {
            return true;
        };
        deciding || slot.as_ref().is_some_and(|c| Arc::strong_count(&c.backend) > 1)
    }
}

impl Chooser {
    /// What was decided for the same wish and still runs, or what is decided now, for a model that was found. Whoever asks
    /// for the same while it is being decided waits; a decision that fails is tried again by the next.
    ///
    /// # Errors
    /// As [`ChoiceOptions::choose`].
    pub fn choose_for(&self, options: &ChoiceOptions, model: Model) -> Result<Choice> {
        let slot = self.slot(options, &model);
        let mut slot = slot.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(choice) = &*slot {
            return Ok(choice.clone());
        }
        let choice = options.choose_for(model)?;
        info!(
            model = choice.model.contract.name,
            backend = choice.backend.name(),
            why = choice.why,
            "model"
        );
        *slot = Some(choice.clone());
        // Of what was tried for a choice nothing should stay.
        crate::heap::give_back();
        Ok(choice)
    }

    fn slot(&self, options: &ChoiceOptions, model: &Model) -> Slot {
        let mut decided = self.decided.lock().unwrap_or_else(|e| e.into_inner());
        // What nobody runs any more is forgotten, so there are never more entries than pipelines and their next steps.
        decided.retain(Entry::is_in_use);
        let is_same = |entry: &&Entry| {
            entry.options == *options
                && entry.model.origin == model.origin
                && entry.model.contract == model.contract
        };
        if let Some(entry) = decided.iter().find(is_same) {
            return entry.slot.clone();
        }
        let slot = Slot::default();
        decided.push(Entry {
            options: options.clone(),
            model: model.clone(),
            slot: slot.clone(),
        });
        slot
    }
}

#[cfg(all(test, feature = "tract", feature = "embed-model"))]
mod tests {
    use super::*;
    use crate::choose::{BackendName, InputLength};

    fn wish(pixels: usize) -> ChoiceOptions {
        ChoiceOptions {
            backend: BackendName::Tract,
            length: InputLength::Pixels(pixels),
            selftest: false,
            ..ChoiceOptions::default()
        }
    }

    #[test]
    fn the_same_wish_shares_a_backend_until_nobody_runs_it() {
        let chooser = Chooser::default();
        let model = || Model::embedded().unwrap().unwrap();
        let first = chooser.choose_for(&wish(64), model()).unwrap();
        let second = chooser.choose_for(&wish(64), model()).unwrap();
        assert!(Arc::ptr_eq(&first.backend, &second.backend));
        let other = chooser.choose_for(&wish(96), model()).unwrap();
        assert!(!Arc::ptr_eq(&first.backend, &other.backend));
        let mut changed = model();
        changed.contract.description.push('!');
        let changed = chooser.choose_for(&wish(64), changed).unwrap();
        assert!(!Arc::ptr_eq(&first.backend, &changed.backend));
        drop((first, second, changed));
        let count = || chooser.decided.lock().unwrap().len();
        assert_eq!(count(), 3);
        drop(other);
        let _again = chooser.choose_for(&wish(64), model()).unwrap();
        assert_eq!(count(), 1, "what nobody runs is forgotten");
    }

    #[test]
    fn those_who_ask_at_the_same_time_get_the_same() {
        let chooser = Chooser::default();
        let model = Model::embedded().unwrap().unwrap();
        let ask = || chooser.choose_for(&wish(64), model.clone()).unwrap();
        let choices: Vec<Choice> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(
            choices
                .iter()
                .all(|c| Arc::ptr_eq(&c.backend, &choices[0].backend))
        );
    }
}
