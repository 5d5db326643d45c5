//! Virtual time: what is to happen, in its order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Milliseconds since the run began.
pub type Time = u64;

/// Events by time; two of the same time in the order they were put.
#[derive(Debug)]
pub struct Queue<E> {
    pub now: Time,
    put: u64,
    heap: BinaryHeap<Reverse<Item<E>>>,
}

#[derive(Debug)]
struct Item<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<E> Eq for Item<E> {}
impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { now: 0, put: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Queue<E> {
    /// To happen `after` milliseconds from now.
    pub fn put(&mut self, after: u64, event: E) {
        self.put += 1;
        self.heap.push(Reverse(Item { at: self.now + after, order: self.put, event }));
    }

    /// The next event; the time is then its own.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(item) = self.heap.pop()?;
        self.now = item.at;
        Some(item.event)
    }
}
