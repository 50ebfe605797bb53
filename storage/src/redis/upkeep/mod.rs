//! What happens besides the calls: the heartbeat, news, opening and closing.

pub(crate) mod beat;
pub(crate) mod heartbeat;
pub(crate) mod lists;
pub(crate) mod news;
pub(crate) mod open;
pub(crate) mod read_writer;
