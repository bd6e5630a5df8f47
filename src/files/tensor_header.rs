//! The header of a safetensors file: which tensors lie where. Files come from anywhere, so nothing in it is
//! believed: names are there once, sizes are what shapes say, and the tensors fill the data without overlaps
//! and holes. Nothing is allocated by what a header claims.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The longest header that is accepted, in bytes, as in the safetensors crate.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The header's one entry that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// How the elements of a stored tensor are kept, of those kinds that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredType {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 64-bit whole numbers.
    I64,
    /// 32-bit whole numbers.
    I32,
    /// Bytes.
    U8,
    /// Truth values, a byte each.
    BOOL,
}

impl StoredType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 | Self::BOOL => 1,
        }
    }
}

/// A tensor in a file.
#[derive(Debug)]
pub(super) struct Entry {
    /// How its elements are kept, in the words of the file: there are more ways than are read.
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Where its bytes begin and end in the file.
    pub place: [u64; 2],
}

impl Entry {
    /// The way its elements are kept, if it is one that is read.
    pub fn stored(&self) -> Option<StoredType> {
        StoredType::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(
            &self.dtype,
        ))
        .ok()
    }
}

/// What a file says of a tensor.
#[derive(Deserialize)]
struct Claim {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// What is wrong with a header.
pub(super) enum Fault {
    /// It is none.
    Foreign(String),
    /// A tensor's entry contradicts itself or others.
    Tensor(String),
    /// The file ends before a tensor does.
    Short(String),
}

/// The tensors of a file of `length` bytes whose data begin after `data`.
pub(super) fn entries(header: &[u8], data: u64, length: u64) -> Result<BTreeMap<String, Entry>, Fault> {
    let mut json = serde_json::Deserializer::from_slice(header);
    let Claims(claims) =
        Claims::deserialize(&mut json).and_then(|claims| json.end().map(|()| claims)).map_err(|e| {
            match e.classify() {
                // well-formed JSON that says something else
                serde_json::error::Category::Data => Fault::Tensor(format!("its header is wrong: {e}")),
                _ => Fault::Foreign(format!("header: {e}")),
            }
        })?;
    let mut all = BTreeMap::new();
    for (name, Claim { dtype, shape, data_offsets: [begin, end] }) in claims {
        let wrong = |problem: String| Fault::Tensor(format!("tensor `{}` {problem}", shown(&name)));
        let sides = shape.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<_>>>();
        let elements = sides.as_ref().and_then(|sides| {
            sides.iter().try_fold(1u64, |product, &n| product.checked_mul(u64::try_from(n).ok()?))
        });
        let (Some(sides), Some(elements)) = (sides, elements) else {
            return Err(wrong(format!("has shape {shape:?}, which is more than there can be")));
        };
        let entry = Entry { dtype, shape: sides, place: [begin, end] };
        let bytes = entry.stored().map(|stored| elements.checked_mul(stored.size() as u64));
        // what is not read may have elements of any size
        let fits = bytes.is_none_or(|bytes| bytes.is_some() && end.checked_sub(begin) == bytes);
        if begin > end || !fits {
            return Err(wrong(format!("has shape {shape:?} but {begin}..{end} for its bytes")));
        }
        if end > length - data {
            return Err(Fault::Short(format!(
                "is cut off: tensor `{}` ends at byte {} of {length}",
                shown(&name),
                data.saturating_add(end)
            )));
        }
        if all.contains_key(&name) {
            return Err(wrong("is in it twice".into()));
        }
        all.insert(name, entry);
    }
    demand_contiguous(&all, length - data)?;
    for entry in all.values_mut() {
        entry.place = entry.place.map(|byte| data + byte);
    }
    Ok(all)
}

/// Tensors lie one behind the other, from the first byte to the last.
fn demand_contiguous(all: &BTreeMap<String, Entry>, length: u64) -> Result<(), Fault> {
    let mut places: Vec<([u64; 2], &str)> = all.iter().map(|(name, e)| (e.place, name.as_str())).collect();
    places.sort_unstable();
    let mut before = (0, None);
    for ([begin, end], name) in places {
        if begin != before.0 {
            let how = if begin < before.0 { "overlaps" } else { "leaves a hole after" };
            let neighbour = before.1.map_or("the header".into(), |name| format!("tensor `{}`", shown(name)));
            return Err(Fault::Tensor(format!("tensor `{}` {how} {neighbour}", shown(name))));
        }
        before = (end, Some(name));
    }
    match length - before.0 {
        0 => Ok(()),
        rest => Err(Fault::Tensor(format!("{rest} bytes at its end belong to no tensor"))),
    }
}

/// A name as it can be shown: from a file of others it may hold anything.
pub(super) fn shown(name: &str) -> String {
    let cut: String = name.chars().take(120).collect();
    let dots = if cut.len() < name.len() { "…" } else { "" };
    format!("{}{dots}", crate::shown::shown(&cut))
}

/// The entries of a header in its order; a map would hide that a name is there twice.
struct Claims(Vec<(String, Claim)>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let claim = map.next_value().map_err(|e| {
                            serde::de::Error::custom(format!("tensor `{}`: {e}", shown(&name)))
                        })?;
                        claims.push((name, claim));
                    }
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(Names)
    }
}
