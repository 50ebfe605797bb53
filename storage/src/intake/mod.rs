//! How messages come in: checked, given their place in the order, queued for a writer.

pub(crate) mod accept;
pub(crate) mod batches;
pub(crate) mod draft;
pub(crate) mod id_reuse;
pub(crate) mod numbering;
pub(crate) mod same_send;
pub(crate) mod upload;
