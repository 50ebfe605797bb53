//! Files on the disk that were refused: this is a state, not only a line in the log, until they are read successfully.
use parking_lot::Mutex;

use crate::config::files::FileMistakes;
use crate::rules::mistake::{Mistake, in_a_line};
use crate::wire::wall_clock::now_ms;

/// What can be refused: the words are those of `petnet.admin.v1` and of the metrics.
pub(crate) const WHAT: [&str; 2] = ["party_file", "certificates"];

/// A refusal that stands: the former version stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StandingRefusal {
    /// What was refused; one of [`WHAT`].
    pub(crate) what: &'static str,
    /// The mistakes in it, as one line.
    pub(crate) why: String,
    /// Since when something has been wrong with it, in milliseconds since the epoch; other mistakes in the meantime do not
    /// change that.
    pub(crate) since_ms: u64,
}

/// The refusals that stand, in the order of [`WHAT`].
#[derive(Debug, Default)]
pub(crate) struct StandingRefusals(Mutex<Vec<StandingRefusal>>);

impl StandingRefusals {
    /// Takes the result of a reading; without mistakes nothing is refused any longer.
    pub(crate) fn read(&self, found: &FileMistakes) {
        let mut standing = self.0.lock();
        *standing = next(&standing, found, now_ms());
    }

    pub(crate) fn all(&self) -> Vec<StandingRefusal> {
        self.0.lock().clone()
    }
}

fn next(before: &[StandingRefusal], found: &FileMistakes, now_ms: u64) -> Vec<StandingRefusal> {
    let of = |what: &'static str, mistakes: &[Mistake]| {
        let since_ms =
            before.iter().find(|refusal| refusal.what == what).map_or(now_ms, |refusal| refusal.since_ms);
        (!mistakes.is_empty()).then(|| StandingRefusal { what, why: in_a_line(mistakes), since_ms })
    };
    let [party_file, certificates] = WHAT;
    of(party_file, &found.party_file).into_iter().chain(of(certificates, &found.certificates)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_since_its_first_mistake_and_goes_with_the_last() {
        let party_file = |why: &str| FileMistakes { party_file: vec![why.into()], ..FileMistakes::default() };
        let first = next(&[], &party_file("a"), 1);
        assert_eq!(first, [StandingRefusal { what: "party_file", why: "a".into(), since_ms: 1 }]);
        let mut both = party_file("b");
        both.certificates = vec!["c".into(), "d".into()];
        let second = next(&first, &both, 2);
        assert_eq!(second[0], StandingRefusal { what: "party_file", why: "b".into(), since_ms: 1 });
        assert_eq!(second[1], StandingRefusal { what: "certificates", why: "c; d".into(), since_ms: 2 });
        both.party_file.clear();
        let third = next(&second, &both, 3);
        assert_eq!(third, second[1..]);
        assert_eq!(next(&third, &FileMistakes::default(), 4), []);
        assert_eq!(next(&[], &both, 5)[0].since_ms, 5, "another time");
    }
}
