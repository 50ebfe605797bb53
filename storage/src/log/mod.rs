//! The log: segments in the data folder, the frames in them, and the handling of damage.

pub(crate) mod batch;
pub(crate) mod codec;
pub(crate) mod damage;
pub(crate) mod data_folder;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod frame;
pub(crate) mod inventory;
pub(crate) mod lane_end;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod spare_segments;
