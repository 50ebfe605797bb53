//! The files of the log: keeps a bounded number of them open, and reads frames back, verified.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::log::disk::{Disk, DiskFile, OpenMode, read_exact_at};
use crate::log::frame::{HEADER_BYTES, Header, NotAFrame, Place};
use crate::log::segment::{Lane, LogFile};

/// Most segment files kept open for reading.
const OPEN_FILES: usize = 128;

/// Bytes of fields read at first: fields with an id of up to about 120 bytes need no second read.
const USUAL_FIELDS: usize = 216;

/// A frame read back, verified.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    body: Bytes,
}

impl Frame {
    /// The fields.
    pub(crate) fn fields(&self) -> &[u8] {
        &self.body[..usize::from(self.header.fields_len)]
    }

    /// The payload.
    pub(crate) fn payload(&self) -> Bytes {
        self.body.slice(usize::from(self.header.fields_len)..)
    }
}

/// Why a frame could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The disk failed.
    Io(io::Error),
    /// The bytes are not valid.
    Damaged(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => Self::Damaged(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<u32, (Arc<dyn DiskFile>, u64)>,
    clock: u64,
}

/// The `log` folder.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    open: Mutex<OpenFiles>,
}

impl Log {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, open: Mutex::default() }
    }

    /// Path of a segment.
    pub(crate) fn path(&self, lane: Lane, id: u32) -> PathBuf {
        self.dir.join(LogFile::Segment(lane, id).name())
    }

    /// A segment's file.
    pub(crate) fn file(&self, lane: Lane, id: u32) -> io::Result<Arc<dyn DiskFile>> {
        {
            let mut open = self.open.lock();
            open.clock += 1;
            let now = open.clock;
            if let Some((file, used)) = open.files.get_mut(&id) {
                *used = now;
                return Ok(file.clone());
            }
        }
        let file = self.disk.open(&self.path(lane, id), OpenMode::Existing)?;
        self.keep(id, file.clone());
        Ok(file)
    }

    /// Keeps a file open for reading.
    pub(crate) fn keep(&self, id: u32, file: Arc<dyn DiskFile>) {
        let mut open = self.open.lock();
        if open.files.len() >= OPEN_FILES
            && let Some(oldest) = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            open.files.remove(&oldest);
        }
        let now = open.clock;
        open.files.insert(id, (file, now));
    }

    /// Forgets the file of a segment that is freed.
    pub(crate) fn forget(&self, id: u32) {
        self.open.lock().files.remove(&id);
    }

    /// Reads the frame at `place`. `frame_len`: its length if that is known, which saves a read.
    pub(crate) fn read(&self, lane: Lane, place: Place, frame_len: u32) -> Result<Frame, ReadError> {
        let file = self.file(lane, place.segment)?;
        let mut bytes = vec![0; (frame_len as usize).max(HEADER_BYTES)];
        read_exact_at(&*file, &mut bytes, place.offset.into())?;
        let header = decode_header(&bytes, place)?;
        let end = HEADER_BYTES + header.body_len as usize;
        if bytes.len() < end {
            let have = bytes.len();
            bytes.resize(end, 0);
            read_exact_at(&*file, &mut bytes[have..], u64::from(place.offset) + have as u64)?;
        }
        let body = Bytes::from(bytes).slice(HEADER_BYTES..end);
        if crc32fast::hash(&body) != header.body_crc {
            return Err(ReadError::Damaged("the content does not match its checksum".into()));
        }
        Ok(Frame { header, body })
    }

    /// Reads the fields of the frame at `place`, which have no checksum of their own.
    pub(crate) fn read_fields(&self, lane: Lane, place: Place) -> Result<Vec<u8>, ReadError> {
        let file = self.file(lane, place.segment)?;
        let mut bytes = vec![0; HEADER_BYTES + USUAL_FIELDS];
        let mut read = file.read_at(&mut bytes, place.offset.into())?;
        let header = decode_header(bytes.get(..read.max(HEADER_BYTES)).unwrap_or(&bytes), place)?;
        let end = HEADER_BYTES + usize::from(header.fields_len);
        bytes.resize(end, 0);
        if read < end {
            read_exact_at(&*file, &mut bytes[HEADER_BYTES..], u64::from(place.offset) + HEADER_BYTES as u64)?;
            read = end;
        }
        debug_assert!(read >= end);
        bytes.drain(..HEADER_BYTES);
        Ok(bytes)
    }

    /// Reads the payload of the frame at `place` into `payload`, which must have its length.
    pub(crate) fn read_payload_into(
        &self,
        lane: Lane,
        place: Place,
        payload: &mut [u8],
    ) -> Result<Header, ReadError> {
        let file = self.file(lane, place.segment)?;
        let mut bytes = [0; HEADER_BYTES];
        read_exact_at(&*file, &mut bytes, place.offset.into())?;
        let header = decode_header(&bytes, place)?;
        if header.fields_len != 0 || header.body_len as usize != payload.len() {
            return Err(ReadError::Damaged("a slice has another length than its message says".into()));
        }
        read_exact_at(&*file, payload, u64::from(place.offset) + HEADER_BYTES as u64)?;
        if crc32fast::hash(payload) != header.body_crc {
            return Err(ReadError::Damaged("the content does not match its checksum".into()));
        }
        Ok(header)
    }
}

fn decode_header(bytes: &[u8], place: Place) -> Result<Header, ReadError> {
    let head = bytes[..HEADER_BYTES].try_into().map_err(|_| ReadError::Damaged("no header".into()))?;
    Header::decode(head, place).map_err(|e| {
        ReadError::Damaged(match e {
            NotAFrame::Zero => "the frame's header is all zero".into(),
            NotAFrame::Garbage => "the frame's header does not match its checksum".into(),
            NotAFrame::UnknownKind(kind, _) => format!("frame kind {kind} is not known to this version"),
        })
    })
}
