//! Errors as text for people.

use tonic::Status;

/// An error with its causes, each only once, and without what a library prints of its own structures.
pub(crate) fn in_words(why: &anyhow::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    // The error in front of it already contains the text of a status.
    for (_, cause) in why.chain().enumerate().filter(|(n, cause)| *n == 0 || !cause.is::<Status>()) {
        let cause = cause.to_string();
        // Some errors wrap a cause and repeat its text.
        if !words.iter().any(|said| said.contains(&cause)) {
            words.push(cause);
        }
    }
    words.join(": ")
}
