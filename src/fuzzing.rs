//! Entry points for fuzzers and for tests with random bytes. Not part of the interface of this crate.

use std::path::Path;

use petnet_storage::{DeliveryIdentity, Incarnation, MessageId, PartyId};
use prost::Message;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::delivery::peer_link::of_refusal;
use crate::proto::peer::{Answers, Deliveries, Delivery, Part, Progress, Refusal};
use crate::rules::parties::Parties;
use crate::wire::metadata;

/// Reads bytes as a party file. For a file that is taken it must be clear who is who; for one that is refused, why.
pub fn party_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Parties::parse(text, Path::new("party.json")) {
        Ok((parties, _)) => {
            for (party, connections) in &parties.parties {
                assert!(PartyId::new(party.as_str()).is_ok());
                assert!(connections.iter().all(|connection| !connection.url.is_empty()), "{text:?}");
                for connection in connections {
                    drop(crate::tls::roots(&connection.certificates));
                }
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| mistake.contains("party.json")));
        }
    }
}

/// Reads bytes as a frame that a peer sends over a link, and as one with its answers, up to where the store begins.
pub fn peer_frame(bytes: &[u8]) {
    if let Ok(Deliveries { deliveries, parts }) = Deliveries::decode(bytes) {
        let payload: usize = deliveries.iter().map(|delivery| delivery.payload.len()).sum::<usize>()
            + parts.iter().map(|part| part.payload.len()).sum::<usize>();
        assert!(payload <= bytes.len(), "a frame holds no more than it has");
        for Delivery { message_id, started_ms, random, number, low_water, .. } in deliveries {
            let incarnation = Incarnation { started_ms, random };
            let identity = DeliveryIdentity { incarnation, number, low_water };
            let checked = metadata::check_identity(&identity);
            assert!(checked.is_err() || low_water <= number);
            drop(MessageId::new(&message_id));
        }
    }
    if let Ok(Answers { refused, .. }) = Answers::decode(bytes) {
        for Refusal { error_code, error_msg, .. } in refused {
            drop(of_refusal(error_code, &error_msg));
        }
    }
}

/// Reads bytes as the metadata of a call.
pub fn call_metadata(bytes: &[u8]) {
    let mut all = MetadataMap::new();
    for key in metadata::KEYS {
        // What is not a valid header value never gets here.
        if let Ok(value) = MetadataValue::<Ascii>::try_from(bytes) {
            all.insert(key, value);
        }
    }
    drop(metadata::sender(&all));
    drop(metadata::wait(&all));
    drop(metadata::identity(&all));
    drop(metadata::link(&all));
    let _ = metadata::deadline(&all);
}

/// Valid party files for mutations to start from.
pub fn party_files() -> Vec<Vec<u8>> {
    [
        r#"{"party_a": {"petnet": [{"type": 1, "url": "a.example:1235", "certificates": "", "whitelist": ["*"]}]}}"#,
        r#"{"a": {"petnet": []}, "b": {"petnet": [{"url": "[::1]:1"}, {"url": "1.2.3.4:65535", "whitelist": ["a", "b"]}]}}"#,
        r#"{"p": {"petnet": [{"url": "h:1", "certificates": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}], "petplatform": {"x": [1, 2, {"y": null}]}}}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Valid frames of a link in both directions.
pub fn peer_frames() -> Vec<Vec<u8>> {
    let delivery = |tag: u64| Delivery {
        tag,
        message_id: format!("job/{tag}"),
        payload: vec![7; tag as usize * 10].into(),
        started_ms: 1_700_000_000_000,
        random: 0x5eed,
        number: tag + 1,
        low_water: 1,
        len: (tag == 4).then_some(1 << 40),
    };
    let part = |tag: u64| Part { tag, offset: tag << 18, payload: vec![9; 50].into() };
    let refused = Refusal { tag: 3, error_code: 30004, error_msg: "access denied".into() };
    vec![
        Deliveries { deliveries: vec![delivery(1)], parts: Vec::new() }.encode_to_vec(),
        Deliveries { deliveries: (0..5).map(delivery).collect(), parts: (2..4).map(part).collect() }
            .encode_to_vec(),
        Answers {
            answered_below: 2,
            kept: vec![4, 5, 300],
            refused: vec![refused],
            progress: vec![Progress { tag: 6, bytes: 1 << 33 }],
        }
        .encode_to_vec(),
    ]
}

/// Valid values of metadata.
pub fn metadata_values() -> Vec<Vec<u8>> {
    let values = ["party_a", "%E4%BD%A0", "1000", "1", "18bcfe568000-5eed", "30S", "12345678901234567890"];
    values.iter().map(|value| value.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use petnet_storage::fuzzing::Dice;

    use super::*;

    const STRINGS: usize = 1_000_000;

    fn feed(what: &str, count: usize, samples: &[Vec<u8>], take: impl Fn(&[u8])) {
        let seed = std::env::var("PETNET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        let mut dice = Dice::new(seed);
        for sample in samples {
            take(sample);
        }
        for n in 0..count {
            let bytes = if n % 10 == 0 { dice.bytes(200) } else { dice.mutated(samples) };
            take(&bytes);
        }
        println!("junk: {count} strings into {what}, seed {seed} (PETNET_SEED={seed} replays it)");
    }

    #[test]
    fn junk_for_a_party_file_is_an_answer_and_never_a_panic() {
        feed("the party file", STRINGS, &party_files(), party_file);
    }

    #[test]
    fn junk_from_a_peer_is_an_answer_and_never_a_panic() {
        feed("the frames of a link", STRINGS, &peer_frames(), peer_frame);
    }

    #[test]
    fn junk_in_metadata_is_an_answer_and_never_a_panic() {
        feed("metadata", STRINGS, &metadata_values(), call_metadata);
    }
}
