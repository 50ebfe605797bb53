//! A fence around calls into a library that panics where it should return an error.
//!
//! sled does so on some kinds of damage, and when the disk fails at the wrong moment, even while it is being dropped. Invariant:
//! no such panic leaves the fence; the caller gets an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is inside a fence: a panic here is answered with an error and need not be shown to anyone. For a
/// program's panic hook.
pub fn is_fenced() -> bool {
    INSIDE.with(|inside| inside.get() > 0)
}

/// Does `work`; `None` if it panicked.
pub(crate) fn fenced<T>(work: impl FnOnce() -> T) -> Option<T> {
    INSIDE.with(|inside| inside.set(inside.get() + 1));
    let done = catch_unwind(AssertUnwindSafe(work));
    INSIDE.with(|inside| inside.set(inside.get().saturating_sub(1)));
    done.ok()
}

/// A value that is dropped inside a fence, too.
#[derive(Debug)]
pub(crate) struct Fenced<T>(Option<T>);

impl<T> Fenced<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self(Some(inner))
    }

    /// Calls into it; `None` if it panicked.
    pub(crate) fn call<R>(&self, work: impl FnOnce(&T) -> R) -> Option<R> {
        fenced(|| self.0.as_ref().map(work)).flatten()
    }

    /// Calls into a value that changes as it is used; `None` if it panicked.
    pub(crate) fn call_mut<R>(&mut self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        fenced(|| self.0.as_mut().map(work)).flatten()
    }
}

impl<T> Drop for Fenced<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        fenced(|| drop(inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FallsAtTheEnd;

    impl Drop for FallsAtTheEnd {
        fn drop(&mut self) {
            assert!(!is_fenced(), "falls");
        }
    }

    #[test]
    fn a_panic_inside_is_an_answer_and_the_end_is_fenced_too() {
        assert_eq!(fenced(|| 1), Some(1));
        assert_eq!(fenced(|| -> u8 { panic!("inside") }), None);
        let inner = Fenced::new(FallsAtTheEnd);
        assert_eq!(inner.call(|_| -> u8 { panic!("inside") }), None);
        drop(inner);
        assert!(!is_fenced());
    }
}
