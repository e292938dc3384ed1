//! The bounded queue between two threads. What it does when full is part of its type of service
//! ([`WhenFull`]), and every item it drops is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded, select_biased};

use crate::clock::Stop;

/// What sending to a full mailbox does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest item makes room: the reader sees the newest. For live video.
    DropOldest,
    /// The item offered is dropped.
    DropNewest,
    /// The sender waits for room. For files that must lose nothing.
    Block,
}

/// What became of an item that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the mailbox.
    Queued,
    /// It is in the mailbox, and the oldest item is gone.
    DroppedOldest,
    /// The mailbox was full and the item is gone.
    DroppedNewest,
    /// The program is stopping or the reader is gone.
    Closed,
}

/// What came of a receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// The next item.
    Item(T),
    /// Nothing within the time.
    Timeout,
    /// The program is stopping, or the sender is gone and the mailbox is empty.
    Closed,
}

/// Counters of one mailbox.
#[derive(Debug, Default)]
pub struct MailboxStats {
    /// Items offered.
    pub sent: AtomicU64,
    /// Items lost because the mailbox was full.
    pub dropped: AtomicU64,
}

impl MailboxStats {
    /// Items lost because the mailbox was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Items offered.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Makes a mailbox of `capacity` (at least 1) items.
pub fn mailbox<T>(
    capacity: usize,
    when_full: WhenFull,
    stop: &Stop,
) -> (MailboxSender<T>, MailboxReceiver<T>) {
    let (tx, rx) = bounded(capacity.max(1));
    let stats = Arc::new(MailboxStats::default());
    let evict = (when_full == WhenFull::DropOldest).then(|| rx.clone());
    (
        MailboxSender {
            tx,
            evict,
            when_full,
            stop: stop.clone(),
            stats: stats.clone(),
        },
        MailboxReceiver {
            rx,
            stop: stop.clone(),
            stats,
        },
    )
}

/// The sending end.
#[derive(Debug)]
pub struct MailboxSender<T> {
    tx: Sender<T>,
    /// A receiver of our own to evict the oldest item with. While it lives the channel never reads
    /// as disconnected, so the end of the reader is learnt from `stop`.
    evict: Option<Receiver<T>>,
    when_full: WhenFull,
    stop: Stop,
    stats: Arc<MailboxStats>,
}

impl<T> MailboxSender<T> {
    /// Offers an item.
    pub fn send(&self, item: T) -> Sent {
        self.stats.sent.fetch_add(1, Ordering::Relaxed);
        match self.when_full {
            WhenFull::Block => {
                select_biased! {
                    recv(self.stop.channel()) -> _ => Sent::Closed,
                    send(self.tx, item) -> sent => if sent.is_ok() { Sent::Queued } else { Sent::Closed },
                }
            }
            WhenFull::DropNewest => match self.tx.try_send(item) {
                Ok(()) => Sent::Queued,
                Err(TrySendError::Full(_)) => {
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    Sent::DroppedNewest
                }
                Err(TrySendError::Disconnected(_)) => Sent::Closed,
            },
            WhenFull::DropOldest => self.send_evicting(item),
        }
    }

    fn send_evicting(&self, mut item: T) -> Sent {
        let mut outcome = Sent::Queued;
        loop {
            if self.stop.is_stopped() {
                return Sent::Closed;
            }
            match self.tx.try_send(item) {
                Ok(()) => return outcome,
                Err(TrySendError::Disconnected(_)) => return Sent::Closed,
                Err(TrySendError::Full(back)) => {
                    item = back;
                    // The reader may have been faster; then there is room, and nothing was lost.
                    if let Some(evict) = &self.evict
                        && evict.try_recv().is_ok()
                    {
                        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                        outcome = Sent::DroppedOldest;
                    }
                }
            }
        }
    }

    /// Whether the program is stopping, or, for a mailbox with a stop of its own, the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.stop.is_stopped()
    }

    /// The mailbox's counters.
    pub fn stats(&self) -> Arc<MailboxStats> {
        self.stats.clone()
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct MailboxReceiver<T> {
    rx: Receiver<T>,
    stop: Stop,
    stats: Arc<MailboxStats>,
}

impl<T> MailboxReceiver<T> {
    /// The next item, waited for until the stop. A stop wins over items that are waiting.
    pub fn recv(&self) -> Received<T> {
        select_biased! {
            recv(self.stop.channel()) -> _ => Received::Closed,
            recv(self.rx) -> item => item.map_or(Received::Closed, Received::Item),
        }
    }

    /// The next item, waited for at most `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Received<T> {
        select_biased! {
            recv(self.stop.channel()) -> _ => Received::Closed,
            recv(self.rx) -> item => item.map_or(Received::Closed, Received::Item),
            default(timeout) => Received::Timeout,
        }
    }

    /// The next item if one is there.
    pub fn try_recv(&self) -> Received<T> {
        if self.stop.is_stopped() {
            return Received::Closed;
        }
        match self.rx.try_recv() {
            Ok(item) => Received::Item(item),
            Err(TryRecvError::Empty) => Received::Timeout,
            Err(TryRecvError::Disconnected) => Received::Closed,
        }
    }

    /// The mailbox's counters.
    pub fn stats(&self) -> Arc<MailboxStats> {
        self.stats.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::stop_pair;

    #[test]
    fn drop_oldest_keeps_the_newest_and_counts() {
        let (_handle, stop) = stop_pair();
        let (tx, rx) = mailbox(2, WhenFull::DropOldest, &stop);
        for i in 0..5 {
            tx.send(i);
        }
        assert_eq!(tx.stats().dropped(), 3);
        assert_eq!(tx.stats().sent(), 5);
        assert_eq!(rx.recv(), Received::Item(3));
        assert_eq!(rx.recv(), Received::Item(4));
        assert_eq!(rx.try_recv(), Received::Timeout);
    }

    #[test]
    fn drop_newest_keeps_the_oldest_and_counts() {
        let (_handle, stop) = stop_pair();
        let (tx, rx) = mailbox(1, WhenFull::DropNewest, &stop);
        assert_eq!(tx.send(1), Sent::Queued);
        assert_eq!(tx.send(2), Sent::DroppedNewest);
        assert_eq!(rx.stats().dropped(), 1);
        assert_eq!(rx.recv(), Received::Item(1));
    }

    #[test]
    fn block_loses_nothing() {
        let (_handle, stop) = stop_pair();
        let (tx, rx) = mailbox(1, WhenFull::Block, &stop);
        let sender = std::thread::spawn(move || {
            for i in 0..1000 {
                assert_eq!(tx.send(i), Sent::Queued);
            }
            tx.stats().dropped()
        });
        for i in 0..1000 {
            assert_eq!(rx.recv(), Received::Item(i));
        }
        assert_eq!(rx.recv(), Received::Closed, "the sender is gone");
        assert_eq!(sender.join().unwrap(), 0);
    }

    #[test]
    fn a_stop_wins_over_waiting_items() {
        let (handle, stop) = stop_pair();
        let (tx, rx) = mailbox(4, WhenFull::DropOldest, &stop);
        tx.send(1);
        drop(handle);
        assert_eq!(rx.recv(), Received::Closed);
        assert_eq!(tx.send(2), Sent::Closed);
    }

    #[test]
    fn a_stop_ends_a_blocked_send() {
        let (handle, stop) = stop_pair();
        let (tx, _rx) = mailbox(1, WhenFull::Block, &stop);
        tx.send(1);
        let sender = std::thread::spawn(move || tx.send(2));
        drop(handle);
        assert_eq!(sender.join().unwrap(), Sent::Closed);
    }
}
