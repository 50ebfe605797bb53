//! What an operator sees and may do: the status, the admin socket, the page, and the metrics.

pub(crate) mod admin;
pub(crate) mod http;
pub(crate) mod overview;
pub(crate) mod process;
pub(crate) mod refused_files;
