//! How large a frame of a link may be, and how much of a large message may be under way.

/// Most payload bytes in one frame; its other fields come in addition.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// Most deliveries in one frame.
pub(crate) const FRAME_DELIVERIES: usize = 256;
/// Payload bytes in one part of a large message.
pub(crate) const PART_BYTES: usize = 256 << 10;
/// Size of the largest frame on the wire: payloads, ids of full length, and the other fields.
pub(crate) const MAX_FRAME_BYTES: usize = FRAME_BYTES + FRAME_DELIVERIES * 2048;
/// Parts of one message that may wait here: as many as a peer sends beyond what it knows to be durable (`LINK_WINDOW` at
/// its largest).
pub(crate) const WINDOW_PARTS: usize = 1024;
