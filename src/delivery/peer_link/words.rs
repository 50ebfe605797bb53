//! What went wrong on the way to a peer, described for the operator.

use tonic::Status;

/// Describes a status together with its innermost cause: "tcp connect error" alone helps nobody.
pub(super) fn in_words(status: &Status) -> String {
    let mut words = format!("{:?}: {}", status.code(), status.message());
    let mut causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    if let Some(cause) =
        causes.by_ref().last().map(ToString::to_string).filter(|cause| !words.contains(cause))
    {
        words = format!("{words}: {cause}");
    }
    words
}
