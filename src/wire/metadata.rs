//! The metadata of calls: its names and text forms, read and written in one place.
//!
//! Party ids may contain any letters, gRPC metadata only printable ASCII: other bytes and `%` are written as `%XX`.

use std::time::Duration;

use petnet_storage::{DeliveryIdentity, Incarnation, PartyId};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// The party that delivers (peers), or whose message is wanted (clients).
pub(crate) const SENDER: &str = "petnet-sender";
/// Longest wait of a receive, in milliseconds.
pub(crate) const WAIT_MS: &str = "petnet-wait-ms";
const INCARNATION: &str = "petnet-incarnation";
const NUMBER: &str = "petnet-number";
const LOW_WATER: &str = "petnet-low-water";
const LINK_VERSION: &str = "petnet-link-version";
const LINK_VERSION_1: &str = "1";
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// All metadata that is read here.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) const KEYS: [&str; 7] =
    [SENDER, WAIT_MS, INCARNATION, NUMBER, LOW_WATER, LINK_VERSION, GRPC_TIMEOUT];

/// Metadata that cannot be read; the text says which and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata {key}: {what}")]
pub(crate) struct BadMetadata {
    key: &'static str,
    what: String,
}

impl BadMetadata {
    fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, what: what.into() }
    }
}

/// `petnet-sender`, if it is given.
pub(crate) fn sender(metadata: &MetadataMap) -> Result<Option<PartyId>, BadMetadata> {
    let Some(text) = text(metadata, SENDER)? else { return Ok(None) };
    let id = unescape(text).ok_or_else(|| BadMetadata::new(SENDER, "not UTF-8 in %XX form"))?;
    PartyId::new(id).map(Some).map_err(|e| BadMetadata::new(SENDER, e.to_string()))
}

/// `petnet-wait-ms`, if it is given.
pub(crate) fn wait(metadata: &MetadataMap) -> Result<Option<Duration>, BadMetadata> {
    let Some(text) = text(metadata, WAIT_MS)? else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(ms) => Ok(Some(Duration::from_millis(ms.into()))),
        Err(e) => Err(BadMetadata::new(WAIT_MS, format!("{text:?} is not a number of milliseconds: {e}"))),
    }
}

/// The call's own deadline, as the time left when it was sent. A deadline that cannot be read counts as none, as in tonic.
pub(crate) fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The delivery identity: all three parts, or `None` for a peer that does not know of it.
pub(crate) fn identity(metadata: &MetadataMap) -> Result<Option<DeliveryIdentity>, BadMetadata> {
    let parts = (text(metadata, INCARNATION)?, text(metadata, NUMBER)?, text(metadata, LOW_WATER)?);
    match parts {
        (None, None, None) => Ok(None),
        (Some(incarnation), Some(number), Some(low_water)) => {
            let incarnation = incarnation
                .parse::<Incarnation>()
                .map_err(|e| BadMetadata::new(INCARNATION, format!("{incarnation:?}: {e}")))?;
            let number = decimal(NUMBER, number)?;
            let low_water = decimal(LOW_WATER, low_water)?;
            let identity = DeliveryIdentity { incarnation, number, low_water };
            check_identity(&identity).map(|()| Some(identity))
        }
        _ => Err(BadMetadata::new(
            INCARNATION,
            "petnet-incarnation, petnet-number and petnet-low-water go together",
        )),
    }
}

/// Checks that numbers count from 1, each has a successor, and none is below its own mark.
pub(crate) fn check_identity(identity: &DeliveryIdentity) -> Result<(), BadMetadata> {
    let DeliveryIdentity { number, low_water, .. } = *identity;
    if number == 0 || number == u64::MAX {
        return Err(BadMetadata::new(NUMBER, format!("{number} cannot be the number of a delivery")));
    }
    if low_water > number {
        let what = format!("{low_water} is above the delivery's own number {number}");
        return Err(BadMetadata::new(LOW_WATER, what));
    }
    Ok(())
}

/// Writes what a peer needs to know about a delivery.
pub(crate) fn write_delivery(metadata: &mut MetadataMap, sender: &PartyId, identity: &DeliveryIdentity) {
    put(metadata, SENDER, &escape(sender.as_str()));
    put(metadata, INCARNATION, &identity.incarnation.to_string());
    put(metadata, NUMBER, &identity.number.to_string());
    put(metadata, LOW_WATER, &identity.low_water.to_string());
}

/// Writes the metadata that opens a peer link.
pub(crate) fn write_link(metadata: &mut MetadataMap, sender: &PartyId) {
    put(metadata, SENDER, &escape(sender.as_str()));
    put(metadata, LINK_VERSION, LINK_VERSION_1);
}

/// The party that opens a peer link. An error if the link is not of the version that this gateway speaks.
pub(crate) fn link(metadata: &MetadataMap) -> Result<PartyId, BadMetadata> {
    match text(metadata, LINK_VERSION)? {
        Some(LINK_VERSION_1) => {}
        other => {
            let what = format!("{} is not a version known here", other.unwrap_or("nothing"));
            return Err(BadMetadata::new(LINK_VERSION, what));
        }
    }
    sender(metadata)?.ok_or_else(|| BadMetadata::new(SENDER, "missing; a link names its sender"))
}

/// Writes whose message a client wants, if only one sender's will do, and how long it waits for it.
pub(crate) fn write_receive(metadata: &mut MetadataMap, from: Option<&PartyId>, wait: Duration) {
    put(metadata, WAIT_MS, &wait.as_millis().to_string());
    if let Some(party) = from {
        put(metadata, SENDER, &escape(party.as_str()));
    }
}

/// Adds one entry. `text` is printable ASCII by construction.
fn put(metadata: &mut MetadataMap, key: &'static str, text: &str) {
    if let Ok(value) = MetadataValue::<Ascii>::try_from(text) {
        metadata.insert(key, value);
    }
}

fn text<'a>(metadata: &'a MetadataMap, key: &'static str) -> Result<Option<&'a str>, BadMetadata> {
    let mut values = metadata.get_all(key).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadMetadata::new(key, "given more than once"));
    }
    value.to_str().map(Some).map_err(|_| BadMetadata::new(key, "not printable ASCII"))
}

fn decimal(key: &'static str, text: &str) -> Result<u64, BadMetadata> {
    text.parse().map_err(|e| BadMetadata::new(key, format!("{text:?} is not a decimal number: {e}")))
}

fn escape(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for byte in id.bytes() {
        // A space at either end would be lost on the way, so all spaces are escaped.
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(byte.into());
        } else {
            text.push('%');
            text.extend(
                [byte >> 4, byte & 15].map(|half| char::from(b"0123456789ABCDEF"[usize::from(half)])),
            );
        }
    }
    text
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in pairs {
            map.append(*key, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn delivery_reads_back_as_written() {
        for name in ["party_a", "  spaced ", "100%", "甲方", "a%41"] {
            let party = PartyId::new(name).unwrap();
            let identity = DeliveryIdentity {
                incarnation: Incarnation { started_ms: 7, random: u64::MAX },
                number: u64::MAX - 1,
                low_water: 1,
            };
            let mut metadata = MetadataMap::new();
            write_delivery(&mut metadata, &party, &identity);
            assert_eq!(sender(&metadata), Ok(Some(party)));
            assert_eq!(super::identity(&metadata), Ok(Some(identity)));
        }
    }

    #[test]
    fn a_receive_reads_back_as_written() {
        let party = PartyId::new("甲方").unwrap();
        let mut metadata = MetadataMap::new();
        write_receive(&mut metadata, Some(&party), Duration::from_millis(1500));
        assert_eq!(sender(&metadata), Ok(Some(party)));
        assert_eq!(wait(&metadata), Ok(Some(Duration::from_millis(1500))));
    }

    #[test]
    fn part_of_an_identity_is_refused() {
        let error = identity(&map(&[(NUMBER, "1")])).unwrap_err();
        assert!(error.to_string().contains("go together"), "{error}");
        let full = [(INCARNATION, "xyz"), (NUMBER, "1"), (LOW_WATER, "1")];
        assert!(identity(&map(&full)).is_err());
        let full = [(INCARNATION, "000102030405060708090a0b0c0d0e0f"), (NUMBER, "-1"), (LOW_WATER, "1")];
        assert!(identity(&map(&full)).unwrap_err().to_string().contains("petnet-number"));
        assert_eq!(identity(&map(&[])), Ok(None));
    }

    #[test]
    fn wait_is_a_whole_number_of_milliseconds() {
        assert_eq!(wait(&map(&[(WAIT_MS, "1500")])), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(wait(&map(&[])), Ok(None));
        for bad in ["", "-1", "1.5", "soon", "99999999999"] {
            assert!(wait(&map(&[(WAIT_MS, bad)])).is_err(), "{bad}");
        }
        assert!(wait(&map(&[(WAIT_MS, "1"), (WAIT_MS, "2")])).is_err());
    }

    #[test]
    fn deadline_is_read_in_every_unit() {
        let read = |text| deadline(&map(&[(GRPC_TIMEOUT, text)]));
        assert_eq!(read("2H"), Some(Duration::from_hours(2)));
        assert_eq!(read("3M"), Some(Duration::from_mins(3)));
        assert_eq!(read("30S"), Some(Duration::from_secs(30)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("5n"), Some(Duration::from_nanos(5)));
        for bad in ["", "S", "5", "123456789S", "5x", "-5S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
