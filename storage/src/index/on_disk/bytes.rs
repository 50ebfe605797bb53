//! How entries and keys are encoded in the index on disk. Numbers are big-endian, so that keys sort.

use std::ops::RangeInclusive;

use super::Result;
use crate::face::direction::Class;
use crate::index::entry::{DeadEntry, Death, Entry};
use crate::log::codec::{Fields, PutFields, Short};
use crate::log::frame::Place;

pub(crate) fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.put_u64(entry.sequence);
    out.put_u64(entry.len);
    out.put_u64(entry.number);
    out.put_u32(entry.place.segment);
    out.put_u32(entry.place.offset);
    out.put_u32(entry.frame_len);
    out.put_u32(entry.first_segment);
    out.put_u32(entry.time);
    out.put_u32(entry.incarnation);
    out.put_u16(entry.party);
    out.put_u8(entry.class as u8);
}

pub(crate) fn decode_entry(f: &mut Fields<'_>) -> std::result::Result<Entry, Short> {
    Ok(Entry {
        sequence: f.u64()?,
        len: f.u64()?,
        number: f.u64()?,
        place: Place { segment: f.u32()?, offset: f.u32()? },
        frame_len: f.u32()?,
        first_segment: f.u32()?,
        time: f.u32()?,
        first_read: 0,
        incarnation: f.u32()?,
        party: f.u16()?,
        class: Class::from_byte(f.u8()?).ok_or(Short)?,
    })
}

pub(super) fn keyed_entry(value: &[u8]) -> Result<(u128, Entry)> {
    let mut f = Fields(value);
    Ok((f.u128()?, decode_entry(&mut f)?))
}

pub(super) fn pending_key(party: u16, sequence: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&party.to_be_bytes());
    key[2..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The keys of a party's messages after a sequence.
pub(super) fn keys_after(party: u16, after: u64) -> RangeInclusive<[u8; 10]> {
    pending_key(party, after.saturating_add(1))..=pending_key(party, u64::MAX)
}

pub(super) fn decode_dead(value: &[u8]) -> Result<DeadEntry> {
    let mut f = Fields(value);
    let key = f.u128()?;
    let entry = decode_entry(&mut f)?;
    let death = Death {
        reason: f.u8()?,
        place: Place { segment: f.u32()?, offset: f.u32()? },
        frame_len: f.u32()?,
        text: f.text()?.into(),
        time: f.u32().ok(),
    };
    Ok(DeadEntry { key, entry, death })
}

/// Decodes a mailbox entry. Earlier versions wrote no time of first read.
pub(crate) fn decode_mail(value: &[u8]) -> std::result::Result<Entry, Short> {
    decode_mail_with_id(value).map(|(entry, _)| entry)
}

/// Decodes a mailbox entry with its id, which earlier versions did not write.
pub(crate) fn decode_mail_with_id(value: &[u8]) -> std::result::Result<(Entry, Option<&str>), Short> {
    let mut f = Fields(value);
    let entry = decode_entry(&mut f)?;
    let first_read = f.u32().unwrap_or(0);
    Ok((Entry { first_read, ..entry }, f.text().ok()))
}

pub(crate) fn encode_mail(entry: &Entry, id: Option<&str>) -> Vec<u8> {
    let mut value = Vec::with_capacity(72 + id.map_or(0, |id| 2 + id.len()));
    encode_entry(entry, &mut value);
    value.put_u32(entry.first_read);
    if let Some(id) = id {
        value.put_text(id);
    }
    value
}
