//! Looks through a list for what is wanted, within a bound: no answer holds anybody up, however long the list is and
//! however little of it is wanted. A caller that gets fewer items than it asked for, and a place to go on from, asks again.

use petnet_storage::Sequence;

/// Most items that are looked at for one answer.
pub(super) const LOOKED_AT: usize = 2000;
/// Items that are looked at together.
const TOGETHER: usize = 500;

/// Looks for the wanted items of a list. Pure: its owner fetches them.
#[derive(Debug)]
pub(super) struct Sift<T> {
    after: Sequence,
    limit: usize,
    is_all: bool,
    looked_at: usize,
    found: Vec<T>,
    is_done: bool,
    /// Where the next look goes on, if there may be more.
    rest: Option<u64>,
}

impl<T> Sift<T> {
    /// Begins after an item, looking for at most `limit`. `is_all`: everything is wanted.
    pub(super) fn new(after: u64, limit: usize, is_all: bool) -> Self {
        Self {
            after: Sequence(after),
            limit,
            is_all,
            looked_at: 0,
            found: Vec::new(),
            is_done: false,
            rest: None,
        }
    }

    /// After which item to look next, and at how many; `None` when it is done.
    pub(super) fn next(&self) -> Option<(Sequence, usize)> {
        let count = if self.is_all {
            self.limit - self.found.len()
        } else {
            TOGETHER.min(LOOKED_AT.saturating_sub(self.looked_at))
        };
        (!self.is_done).then_some((self.after, count))
    }

    /// How many more are wanted.
    pub(super) fn left(&self) -> usize {
        self.limit - self.found.len()
    }

    /// Takes the items that were there, at most as many as were asked for; `up_to` says how far the list was read if there
    /// may be more.
    pub(super) fn take(
        &mut self,
        some: Vec<(Sequence, T)>,
        up_to: Option<Sequence>,
        is_wanted: impl Fn(&T) -> bool,
    ) {
        self.looked_at += self.next().map_or(0, |(_, count)| count);
        for (sequence, item) in some {
            if self.is_all || is_wanted(&item) {
                self.found.push(item);
            }
            if self.found.len() >= self.limit {
                return self.end(Some(sequence));
            }
        }
        match up_to {
            None => self.end(None),
            Some(_) if self.looked_at >= LOOKED_AT => self.end(up_to),
            Some(up_to) => self.after = up_to,
        }
    }

    fn end(&mut self, rest: Option<Sequence>) {
        self.is_done = true;
        self.rest = rest.map(|last| last.0);
    }

    /// The wanted items, and the item after which to go on; `None` if there are no more.
    pub(super) fn done(self) -> (Vec<T>, Option<u64>) {
        (self.found, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: u64 = 100_000;

    /// Goes through all pages; returns what was found, and how many pages there were.
    fn all(limit: usize, is_all: bool, is_wanted: fn(&u64) -> bool) -> (Vec<u64>, usize) {
        let (mut found, mut pages, mut after) = (Vec::new(), 0, 0);
        loop {
            let (mut sift, mut looked_at) = (Sift::new(after, limit, is_all), 0);
            while let Some((Sequence(from), count)) = sift.next() {
                let some: Vec<u64> = (from + 1..=ITEMS).take(count).collect();
                looked_at += some.len();
                let up_to = some.last().filter(|_| some.len() == count).map(|last| Sequence(*last));
                sift.take(some.into_iter().map(|n| (Sequence(n), n)).collect(), up_to, is_wanted);
            }
            let (some, next) = sift.done();
            assert!(looked_at <= LOOKED_AT.max(limit) && some.len() <= limit);
            found.extend(some);
            pages += 1;
            match next {
                Some(next) => {
                    assert!(next > after, "it gets on");
                    after = next;
                }
                None => return (found, pages),
            }
        }
    }

    #[test]
    fn a_page_looks_at_so_many_and_all_pages_find_everything_once() {
        let (found, pages) = all(100, false, |n| n % 40_000 == 7);
        assert_eq!(found, [7, 40_007, 80_007]);
        assert!(pages <= ITEMS as usize / LOOKED_AT + 1, "{pages}");
        let (found, _) = all(1000, false, |n| n % 3 == 0);
        assert!(found.iter().copied().eq((3..=ITEMS).step_by(3)));
        let (found, pages) = all(1000, true, |_| false);
        assert!(found.iter().copied().eq(1..=ITEMS) && pages == 101);
        let (found, _) = all(1, false, |n| *n == ITEMS);
        assert_eq!(found, [ITEMS]);
    }
}
