//! What all commands share: exit codes, messages on the terminal, tables, progress, signals.

pub(crate) mod causes;
pub(crate) mod exit;
pub(crate) mod progress;
pub(crate) mod say;
pub(crate) mod signals;
pub(crate) mod table;
