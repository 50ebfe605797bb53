//! What the threads of a store share: the state, the queues of the writers, the available room.

pub(crate) mod fresh_room;
pub(crate) mod fullness;
pub(crate) mod index_loss;
pub(crate) mod lane_progress;
pub(crate) mod news;
pub(crate) mod options;
pub(crate) mod reply;
pub(crate) mod room;
pub(crate) mod shared;
pub(crate) mod slices_written;
pub(crate) mod write_queue;
