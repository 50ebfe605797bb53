//! The URI by which a certificate names a party: `petnet://party/ID`.
//!
//! The id is percent-encoded according to RFC 3986: whatever is not "unreserved" is written as the `%XX` of its UTF-8
//! bytes.

use petnet_storage::PartyId;

const SCHEME: &str = "petnet:";
const PREFIX: &str = "petnet://party/";

/// The URI of a party.
pub(crate) fn party_uri(party: &PartyId) -> String {
    let mut uri = PREFIX.to_owned();
    for byte in party.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(byte.into());
        } else {
            uri.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    uri
}

fn digit(half: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(half)])
}

/// True for every URI of our scheme, even one that names nobody.
pub(crate) fn is_party_uri(uri: &str) -> bool {
    uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// The party of a URI; `None` unless the URI has exactly the form that [`party_uri`] makes, so that no two forms name one
/// party.
pub(crate) fn party_of_uri(uri: &str) -> Option<PartyId> {
    let mut rest = uri.strip_prefix(PREFIX)?.as_bytes();
    let mut id = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            id.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            id.push(*first);
        }
    }
    let party = PartyId::new(String::from_utf8(id).ok()?).ok()?;
    (party_uri(&party) == uri).then_some(party)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::party;

    #[test]
    fn every_party_has_one_uri_and_every_such_uri_one_party() {
        for (name, uri) in [
            ("party_a", "petnet://party/party_a"),
            ("Bank-1.eu", "petnet://party/Bank-1.eu"),
            ("甲", "petnet://party/%E7%94%B2"),
            ("a/b %", "petnet://party/a%2Fb%20%25"),
        ] {
            assert_eq!(party_uri(&party(name)), uri);
            assert_eq!(party_of_uri(uri), Some(party(name)));
        }
    }

    #[test]
    fn other_forms_name_nobody() {
        for uri in [
            "petnet://party/",
            "petnet://party",
            "petnet://parties/a",
            "petnet://party/a/b",
            "petnet://party/a?x",
            "petnet://party/a#x",
            "petnet://party/%61",
            "petnet://party/%e7%94%b2",
            "petnet://party/%",
            "petnet://party/%4",
            "petnet://party/%zz",
            "petnet://party/%FF",
            "petnet://party/%+1",
            "petnet://u@party/a",
            "petnet://party:1/a",
            "PETNET://party/a",
            "https://party/a",
        ] {
            assert_eq!(party_of_uri(uri), None, "{uri}");
        }
        assert!(
            is_party_uri("PETNET://party/a") && !is_party_uri("https://party/a") && !is_party_uri("petn")
        );
    }
}
