//! Reads PETNet's party file and reports every mistake in it, each with its path in the JSON, line and column.
//!
//! An ordinary deserialiser stops at the first mistake and silently lets a repeated key win. So the file is taken apart
//! level by level into raw pieces of its own text, and each piece is judged on its own.
//!
//! Invariant: nothing is skipped silently. Whatever is not used is named in a notice.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use petnet_storage::PartyId;
use serde::Deserialize;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Connection, ConnectionType, EVERYBODY, Parties};
use crate::rules::mistake::Mistake;
use crate::rules::text::{self, distance, many};

mod url;

const PEM_BEGIN: &str = "-----BEGIN";

/// The members of a JSON object in their order, repeated keys included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, {...}")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect).map(Members)
    }
}

pub(super) fn parse(text: &str, path: &Path) -> Result<(Parties, Vec<String>), Vec<Mistake>> {
    let mut file = PartyFile { text, path, mistakes: Vec::new(), notices: Vec::new() };
    let parties = file.parties();
    if file.mistakes.is_empty() { Ok((Parties { parties }, file.notices)) } else { Err(file.mistakes) }
}

struct PartyFile<'a> {
    text: &'a str,
    path: &'a Path,
    mistakes: Vec<Mistake>,
    notices: Vec<String>,
}

impl<'a> PartyFile<'a> {
    fn parties(&mut self) -> BTreeMap<PartyId, Vec<Connection>> {
        let mut parties = BTreeMap::new();
        let mut unused: BTreeMap<String, usize> = BTreeMap::new();
        for (name, value) in self.members("", None) {
            let connections = self.party(&name, value, &mut unused);
            match PartyId::new(&name) {
                Ok(id) => {
                    parties.insert(id, connections);
                }
                Err(why) => self.mistake(&name, Some(value), &why.to_string()),
            }
        }
        for (key, count) in unused {
            let file = self.path.display();
            let times = many(count as u64, "time", "times");
            self.notices.push(format!("{file}: key {key:?} is not used here and ignored ({times})"));
        }
        parties
    }

    fn party(
        &mut self,
        name: &str,
        value: &'a RawValue,
        unused: &mut BTreeMap<String, usize>,
    ) -> Vec<Connection> {
        let mut connections = Vec::new();
        for (key, value) in self.members(name, Some(value)) {
            if key != PETNET {
                let path = format!("{name}.{key}");
                match alike(&key, &[PETNET]) {
                    // Its contents would be ignored, including a whitelist.
                    Some(_) => {
                        let what = "not known here; did you mean \"petnet\"?";
                        self.mistake(&path, Some(value), what);
                    }
                    None => *unused.entry(key).or_default() += 1,
                }
                continue;
            }
            let path = format!("{name}.{PETNET}");
            match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
                Ok(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        connections.extend(self.connection(&format!("{path}[{index}]"), item));
                    }
                }
                Err(_) => self.mistake(&path, Some(value), "expected a list of connections, [...]"),
            }
        }
        connections
    }

    fn connection(&mut self, path: &str, value: &'a RawValue) -> Option<Connection> {
        let mut kind = ConnectionType::Direct;
        let (mut url, mut certificates) = (None, String::new());
        let mut whitelist = vec![EVERYBODY.to_string()];
        let before = self.mistakes.len();
        let members = self.members(path, Some(value));
        if self.mistakes.len() > before && members.is_empty() {
            return None;
        }
        for (key, value) in members {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "type" => match self.read::<i64>(&path, value) {
                    Some(0) => kind = ConnectionType::Other,
                    Some(1) => kind = ConnectionType::Direct,
                    Some(2) => kind = ConnectionType::Proxy,
                    Some(_) => {
                        self.mistake(&path, Some(value), "expected 1 (direct), 2 (proxy) or 0 (other)");
                    }
                    None => {}
                },
                "url" => {
                    url = Some(String::new());
                    if let Some(text) = self.read::<String>(&path, value) {
                        if let Err(why) = url::check(&text) {
                            self.mistake(&path, Some(value), &format!("{text:?}: {why}"));
                        }
                        url = Some(text);
                    }
                }
                "certificates" => {
                    if let Some(Some(text)) = self.read::<Option<String>>(&path, value) {
                        certificates = self.certificates(&path, value, text);
                    }
                }
                "whitelist" => {
                    if let Some(Some(list)) = self.read::<Option<Vec<String>>>(&path, value) {
                        for (index, entry) in list.iter().enumerate() {
                            if let Err(why) = PartyId::new(entry) {
                                self.mistake(&format!("{path}[{index}]"), Some(value), &why.to_string());
                            }
                        }
                        whitelist = list;
                    }
                }
                // A misspelt whitelist would open the gate to everybody.
                _ => self.mistake(&path, Some(value), &not_a_key(&key)),
            }
        }
        if url.is_none() {
            self.mistake(&format!("{path}.url"), Some(value), "missing; expected \"host:port\"");
        }
        Some(Connection { kind, url: url?, certificates, whitelist })
    }

    /// PEM text is returned as it is; a path, relative to the folder of the party file, is read.
    fn certificates(&mut self, place: &str, value: &RawValue, text: String) -> String {
        if text.trim().is_empty() || text.contains(PEM_BEGIN) {
            return text;
        }
        let file = self.path.parent().unwrap_or(Path::new("")).join(&text);
        match text::read(&file) {
            Ok(pem) if pem.contains(PEM_BEGIN) => return pem,
            Ok(_) => {
                let why = format!("{} holds no PEM certificate (no {PEM_BEGIN} line)", file.display());
                self.mistake(place, Some(value), &why);
            }
            Err(why) => {
                let what = format!("neither PEM text nor a file that can be read: {}: {why}", file.display());
                self.unreadable(place, value, &what, &why);
            }
        }
        String::new()
    }

    /// The members of an object, or of the whole file. A repeated key is a mistake, and its later values are dropped.
    fn members(&mut self, path: &str, value: Option<&'a RawValue>) -> Vec<(String, &'a RawValue)> {
        let found: Result<Members<'a>, _> = serde_json::from_str(value.map_or(self.text, RawValue::get));
        let members = match found {
            Ok(Members(members)) => members,
            Err(why) if value.is_none() => {
                // For the whole file, the line and column in the error are correct as they are.
                self.mistakes.push(format!("{}: {why}", self.path.display()).into());
                return Vec::new();
            }
            Err(_) => {
                self.mistake(path, value, "expected an object, {...}");
                return Vec::new();
            }
        };
        let mut seen = HashSet::new();
        let mut once = Vec::with_capacity(members.len());
        for (key, value) in members {
            if seen.insert(key.clone()) {
                once.push((key, value));
            } else {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                self.mistake(&path, Some(value), "this key is there twice; keep one");
            }
        }
        once
    }

    fn read<T: DeserializeOwned>(&mut self, path: &str, value: &RawValue) -> Option<T> {
        let mut json = serde_json::Deserializer::from_str(value.get());
        match serde_path_to_error::deserialize(&mut json) {
            Ok(read) => Some(read),
            Err(error) => {
                let inner = error.path().to_string();
                let path = if inner == "." { path.to_string() } else { format!("{path}{inner}") };
                let what = error.inner().to_string();
                // The line and column in the error count from the piece, not from the start of the file.
                let what = what.split(" at line ").next().unwrap_or_default();
                // Authors of the file need not know what Rust calls it.
                let what = what
                    .replace("expected i64", "expected a number")
                    .replace("expected a sequence", "expected a list, [...]");
                self.mistake(&path, Some(value), &what);
                None
            }
        }
    }

    fn mistake(&mut self, path: &str, value: Option<&RawValue>, what: &str) {
        let file = self.path.display();
        let place = value.map_or(String::new(), |value| self.place(value));
        self.mistakes.push(format!("{file}: {path}: {what}{place}").into());
    }

    /// Reports a mistake about another file, which the party file names.
    fn unreadable(&mut self, path: &str, value: &RawValue, what: &str, why: &std::io::Error) {
        let (file, place) = (self.path.display(), self.place(value));
        self.mistakes.push(Mistake::of_io(format!("{file}: {path}: {what}{place}"), why));
    }

    /// The place of a piece in the file. The piece is a slice of the text, so its address gives the place.
    fn place(&self, value: &RawValue) -> String {
        let offset = (value.get().as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let Some(before) = self.text.get(..offset) else { return String::new() };
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!(" (line {line}, column {column})")
    }
}

/// The key that holds a party's connections; other keys belong to other programs.
const PETNET: &str = "petnet";
/// The keys that a connection may have.
const KEYS: [&str; 4] = ["type", "url", "certificates", "whitelist"];

fn not_a_key(key: &str) -> String {
    let known = format!("a connection has: {}", KEYS.join(", "));
    match alike(key, &KEYS) {
        Some(meant) => format!("not known here; did you mean {meant:?}? ({known})"),
        None => format!("not known here; {known}"),
    }
}

/// The word that was probably meant.
fn alike<'w>(key: &str, words: &[&'w str]) -> Option<&'w str> {
    let key = key.to_lowercase();
    let near = |word: &&&str| distance(&key, word) <= word.len().div_ceil(3);
    words.iter().filter(near).min_by_key(|word| distance(&key, word)).copied()
}

#[cfg(test)]
mod tests;
