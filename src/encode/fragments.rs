//! Encoded units as fragmented MP4 (ISO/IEC 14496-12 and -15): a beginning, then fragments of one or several pictures. A
//! player can begin with any whole fragment behind the beginning, so the file may end anywhere.

use std::time::Duration;

use super::{AccessUnit, Codec};

/// Ticks a second of the media's time.
const TIMESCALE: u64 = 90_000;

/// The kinds of NAL units that are looked for (ITU-T H.264, table 7-1).
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;

/// The same for H.265 (ITU-T H.265, table 7-1).
const VPS_265: u8 = 32;
const SPS_265: u8 = 33;
const PPS_265: u8 = 34;
const DELIMITER_265: u8 = 35;

/// The NAL units of a byte stream, without start codes.
pub fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        let from = rest?;
        let end = from.windows(3).position(|w| w == [0, 0, 1]);
        rest = end.and_then(|at| after_start_code(&from[at..]));
        let mut unit = &from[..end.unwrap_or(from.len())];
        // A start code may have a zero before it, and a unit may have some behind it.
        while let [shorter @ .., 0] = unit {
            unit = shorter;
        }
        Some(unit)
    })
    .filter(|unit| !unit.is_empty())
}

/// What follows the first start code, if there is one.
fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    let at = stream.windows(3).position(|w| w == [0, 0, 1])?;
    Some(&stream[at + 3..])
}

/// What a NAL unit holds.
fn kind(codec: Codec, nal: &[u8]) -> u8 {
    match codec {
        Codec::H264 => nal[0] & 0x1f,
        Codec::H265 => nal[0] >> 1 & 0x3f,
    }
}

/// Whether a NAL unit has no place in a sample: the beginning has the parameter sets, and samples have lengths.
fn is_left_out(codec: Codec, nal: &[u8]) -> bool {
    let kind = kind(codec, nal);
    match codec {
        Codec::H264 => matches!(kind, SPS | PPS | DELIMITER),
        Codec::H265 => matches!(kind, VPS_265 | SPS_265 | PPS_265 | DELIMITER_265),
    }
}

/// The first NAL unit of a kind.
fn find(unit: &AccessUnit, wanted: u8) -> Option<&[u8]> {
    nal_units(&unit.data).find(|nal| kind(unit.parameters.codec, nal) == wanted)
}

/// Nanoseconds in ticks.
pub const fn ticks(ns: u64) -> u64 {
    // 64 bits hold it: a tick is longer than a nanosecond.
    (ns as u128 * TIMESCALE as u128 / 1_000_000_000) as u64
}

/// Ticks as time.
pub fn time(ticks: u64) -> Duration {
    Duration::from_secs(ticks / TIMESCALE)
        + Duration::from_nanos(ticks % TIMESCALE * 1_000_000_000 / TIMESCALE)
}

/// A box: its length, its type, what is in it.
fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let length = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length);
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A box with version and flags.
fn full(kind: &[u8; 4], version: u8, flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    let head = (u32::from(version) << 24 | flags).to_be_bytes();
    let mut all: Vec<&[u8]> = vec![&head];
    all.extend(parts);
    boxed(kind, &all)
}

/// The transformation that changes nothing.
const IDENTITY: [u8; 36] = {
    let mut matrix = [0; 36];
    matrix[1] = 1;
    matrix[17] = 1;
    matrix[32] = 0x40;
    matrix
};

/// A number in four bytes; what is larger can't be meant.
fn word(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

/// One stream's fragments, of one picture each.
#[derive(Debug)]
pub struct Fragments {
    mime: String,
    beginning: Vec<u8>,
    /// Fragments so far.
    number: u32,
    /// The first picture's time, and the last one's on the media's line, in ticks.
    times: Option<(u64, u64)>,
}

impl Fragments {
    /// A stream that begins with this keyframe; `None` if its parameter sets are missing.
    pub fn begin(keyframe: &AccessUnit) -> Option<Self> {
        let (mime, beginning) = beginning(keyframe)?;
        Some(Self {
            mime,
            beginning,
            number: 0,
            times: None,
        })
    }

    /// The media type, with the codec's profile and level, as browsers ask for it.
    pub fn mime(&self) -> &str {
        &self.mime
    }

    /// What comes before the first fragment.
    pub fn beginning(&self) -> &[u8] {
        &self.beginning
    }

    /// The fragment of the next picture. Its time is that of its capture, which notices have as well; it always rises.
    pub fn fragment(&mut self, unit: &AccessUnit) -> Vec<u8> {
        let captured = ticks(unit.captured_at_ns);
        let at = match self.times {
            None => 0,
            Some((first, last)) => captured.saturating_sub(first).max(last + 1),
        };
        self.times = Some((self.times.map_or(captured, |(first, _)| first), at));
        self.number = self.number.wrapping_add(1);

        let mut data = Vec::with_capacity(unit.data.len() + 16);
        let bytes = append_sample(&mut data, unit);
        let sample = Sample {
            duration: u32::try_from(ticks(unit.duration_ns)).unwrap_or(u32::MAX).max(1),
            bytes,
            is_keyframe: unit.is_keyframe,
        };
        let mut out = fragment_head(self.number, at, &[sample]);
        out.extend(data);
        out
    }
}

/// A picture in a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Ticks to the next picture.
    pub duration: u32,
    /// Its length.
    pub bytes: u32,
    /// Whether it can be decoded without any before it.
    pub is_keyframe: bool,
}

/// Appends a picture as MP4 has it, with lengths in place of start codes and without parameter sets. Gives its length.
pub fn append_sample(out: &mut Vec<u8>, unit: &AccessUnit) -> u32 {
    let before = out.len();
    for nal in nal_units(&unit.data).filter(|nal| !is_left_out(unit.parameters.codec, nal)) {
        out.extend(word(nal.len()));
        out.extend_from_slice(nal);
    }
    u32::try_from(out.len() - before).unwrap_or(u32::MAX)
}

/// What stands before the pictures of a fragment; `at` is the first one's time in ticks. Numbers begin with 1.
pub fn fragment_head(number: u32, at: u64, samples: &[Sample]) -> Vec<u8> {
    let mut table = Vec::with_capacity(12 * samples.len());
    for sample in samples {
        // Whether others are needed to decode it: no, or yes.
        let flags: u32 = if sample.is_keyframe {
            0x0200_0000
        } else {
            0x0101_0000
        };
        for field in [sample.duration, sample.bytes, flags] {
            table.extend(field.to_be_bytes());
        }
    }
    // The data follows the fragment's head, whose length does not depend on what is in it.
    let head = |offset: usize| {
        let run = full(
            b"trun",
            0,
            // Offset; duration, size and flags of each sample.
            0x701,
            &[&word(samples.len()), &word(offset), &table],
        );
        // Offsets count from the fragment's first byte.
        let header = full(b"tfhd", 0, 0x02_0000, &[&1u32.to_be_bytes()]);
        let time = full(b"tfdt", 1, 0, &[&at.to_be_bytes()]);
        let track = boxed(b"traf", &[&header, &time, &run]);
        boxed(b"moof", &[&full(b"mfhd", 0, 0, &[&number.to_be_bytes()]), &track])
    };
    let mut out = head(head(0).len() + 8);
    let data: usize = samples.iter().map(|sample| sample.bytes as usize).sum();
    out.extend(word(8 + data));
    out.extend(b"mdat");
    out
}

/// One or several fragments in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Their length, heads and pictures.
    pub bytes: u32,
    /// Ticks from their first picture to the one behind them.
    pub duration: u32,
    /// Whether their first picture is a keyframe.
    pub is_keyframe: bool,
}

/// The length of an index of so many references.
pub const fn index_length(references: usize) -> usize {
    40 + 12 * references
}

/// An index of fragments of a stream whose time begins at 0; the first one is `offset` bytes behind it.
pub fn index(offset: u64, references: &[Reference]) -> Vec<u8> {
    let mut table = Vec::with_capacity(12 * references.len());
    for one in references {
        table.extend((one.bytes & 0x7fff_ffff).to_be_bytes());
        table.extend(one.duration.to_be_bytes());
        // A decoder can begin there: a stream access point of type 1, at once.
        let access: u32 = if one.is_keyframe { 0x9000_0000 } else { 0 };
        table.extend(access.to_be_bytes());
    }
    let count = u16::try_from(references.len()).unwrap_or(u16::MAX);
    full(
        b"sidx",
        1,
        0,
        &[
            &1u32.to_be_bytes(),
            &word(TIMESCALE as usize),
            &0u64.to_be_bytes(),
            &offset.to_be_bytes(),
            &[0, 0],
            &count.to_be_bytes(),
            &table,
        ],
    )
}

/// A box of this length in which nothing is, to be overwritten later; at least 8 bytes.
pub fn unused(length: usize) -> Vec<u8> {
    boxed(b"free", &[&vec![0; length.saturating_sub(8)]])
}

/// A stream's media type, and what stands before its first fragment: file type and movie, with one track. `None` if the
/// keyframe's parameter sets are missing.
pub fn beginning(keyframe: &AccessUnit) -> Option<(String, Vec<u8>)> {
    let parameters = &keyframe.parameters;
    let size = (
        u16::try_from(parameters.width).ok()?,
        u16::try_from(parameters.height).ok()?,
    );
    let (mime, entry) = match parameters.codec {
        Codec::H264 => h264_entry(find(keyframe, SPS)?, find(keyframe, PPS)?, size)?,
        Codec::H265 => h265_entry(
            [VPS_265, SPS_265, PPS_265]
                .map(|wanted| find(keyframe, wanted))
                .into_iter()
                .collect::<Option<Vec<_>>>()?
                .as_slice(),
            size,
        )?,
    };
    Some((mime, movie(&entry, size)?))
}

/// A length in two bytes.
fn short(n: usize) -> Option<[u8; 2]> {
    u16::try_from(n).ok().map(u16::to_be_bytes)
}

/// The entry that describes a track's samples.
fn visual(kind: &[u8; 4], (width, height): (u16, u16), configuration: &[u8]) -> Vec<u8> {
    let [w, h] = [width, height].map(u16::to_be_bytes);
    let mut entry = vec![0; 78];
    entry[7] = 1;
    entry[24..26].copy_from_slice(&w);
    entry[26..28].copy_from_slice(&h);
    // 72 dots an inch, both ways; one picture a sample; 24 bits a pixel; no colour table.
    entry[29] = 72;
    entry[33] = 72;
    entry[41] = 1;
    entry[75] = 24;
    entry[76..].fill(0xff);
    boxed(kind, &[&entry, configuration])
}

fn h264_entry(sps: &[u8], pps: &[u8], size: (u16, u16)) -> Option<(String, Vec<u8>)> {
    let [_, profile, compatibility, level, ..] = *sps else {
        return None;
    };
    let mut configuration = vec![1, profile, compatibility, level, 0xff, 0xe1];
    configuration.extend(short(sps.len())?);
    configuration.extend_from_slice(sps);
    configuration.push(1);
    configuration.extend(short(pps.len())?);
    configuration.extend_from_slice(pps);
    // The high profiles say how colours are sampled: 4:2:0, 8 bits each.
    if matches!(profile, 100 | 110 | 122 | 144) {
        configuration.extend([0xfd, 0xf8, 0xf8, 0]);
    }
    Some((
        format!("video/mp4; codecs=\"avc1.{profile:02x}{compatibility:02x}{level:02x}\""),
        visual(b"avc1", size, &boxed(b"avcC", &[&configuration])),
    ))
}

/// `sets`: video, sequence and picture parameters.
fn h265_entry(sets: &[&[u8]], size: (u16, u16)) -> Option<(String, Vec<u8>)> {
    let sps = without_escapes(sets.get(1)?);
    // Behind the unit's head and a byte of numbers: profile, tier and level (7.3.3).
    let level: &[u8; 12] = sps.get(3..15)?.try_into().ok()?;
    let is_nested = sps[2] & 1;
    let mut configuration = vec![1];
    configuration.extend(level);
    // No limit on slices; 4:2:0, 8 bits each; the rate is not said; one layer in time; lengths of four bytes.
    configuration.extend([0xf0, 0, 0xfc, 0xfd, 0xf8, 0xf8, 0, 0]);
    configuration.push(1 << 3 | is_nested << 2 | 3);
    configuration.push(u8::try_from(sets.len()).ok()?);
    for set in sets {
        // All of the kind are here.
        configuration.push(0x80 | kind(Codec::H265, set));
        configuration.extend([0, 1]);
        configuration.extend(short(set.len())?);
        configuration.extend_from_slice(set);
    }
    // As ISO/IEC 14496-15, annex E, has it.
    let compatibility = u32::from_be_bytes([level[1], level[2], level[3], level[4]]).reverse_bits();
    let tier = if level[0] & 0x20 == 0 { 'L' } else { 'H' };
    let mut mime = format!(
        "video/mp4; codecs=\"hvc1.{}.{compatibility:X}.{tier}{}",
        level[0] & 0x1f,
        level[11]
    );
    let constraints = &level[5..11];
    let said = constraints.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
    for byte in &constraints[..said] {
        mime.push_str(&format!(".{byte:X}"));
    }
    mime.push('"');
    Some((mime, visual(b"hvc1", size, &boxed(b"hvcC", &[&configuration]))))
}

/// A NAL unit's bytes without those that keep start codes out of it: a 3 behind two zeros.
fn without_escapes(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    for (n, &byte) in nal.iter().enumerate() {
        if byte != 3 || n < 2 || nal[n - 2..n] != [0, 0] {
            out.push(byte);
        }
    }
    out
}

/// File type and movie: one track of pictures of this size.
fn movie(entry: &[u8], (width, height): (u16, u16)) -> Option<Vec<u8>> {
    let timescale = u32::try_from(TIMESCALE).ok()?.to_be_bytes();
    let [w, h] = [width, height].map(u16::to_be_bytes);
    let one = 1u32.to_be_bytes();
    let none = 0u32.to_be_bytes();
    let table = boxed(
        b"stbl",
        &[
            &full(b"stsd", 0, 0, &[&one, entry]),
            &full(b"stts", 0, 0, &[&none]),
            &full(b"stsc", 0, 0, &[&none]),
            &full(b"stsz", 0, 0, &[&none, &none]),
            &full(b"stco", 0, 0, &[&none]),
        ],
    );
    let here = full(b"url ", 0, 1, &[]);
    let info = boxed(
        b"minf",
        &[
            &full(b"vmhd", 0, 1, &[&[0; 8]]),
            &boxed(b"dinf", &[&full(b"dref", 0, 0, &[&one, &here])]),
            &table,
        ],
    );
    let media = boxed(
        b"mdia",
        &[
            // No length yet; no language ("und").
            &full(b"mdhd", 0, 0, &[&[0; 8], &timescale, &none, &[0x55, 0xc4, 0, 0]]),
            &full(b"hdlr", 0, 0, &[&none, b"vide", &[0; 12], b"segd\0"]),
            &info,
        ],
    );
    let header = full(
        b"tkhd",
        0,
        // Enabled, and in the movie.
        3,
        &[
            &[0; 8], &one, &[0; 8], &[0; 16], &IDENTITY, &w, &[0; 2], &h, &[0; 2],
        ],
    );
    let track = boxed(b"trak", &[&header, &media]);
    let movie_header = full(
        b"mvhd",
        0,
        0,
        &[
            &[0; 8],
            &timescale,
            &none,
            // Rate and volume of 1.
            &[0, 1, 0, 0, 1, 0],
            &[0; 10],
            &IDENTITY,
            &[0; 24],
            &2u32.to_be_bytes(),
        ],
    );
    let extends = boxed(
        b"mvex",
        &[&full(b"trex", 0, 0, &[&one, &one, &none, &none, &none])],
    );
    let mut out = boxed(b"ftyp", &[b"iso5", &none, b"iso5iso6mp41avc1"]);
    out.extend(boxed(b"moov", &[&movie_header, &track, &extends]));
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::encode::{Codec, Parameters};
    use vision::frame::Colorimetry;

    fn unit(data: &[u8], captured_at_ns: u64, is_keyframe: bool) -> AccessUnit {
        AccessUnit {
            data: data.into(),
            pts_ns: 0,
            captured_at_ns,
            duration_ns: 40_000_000,
            is_keyframe,
            is_notice: false,
            parameters: Arc::new(Parameters {
                codec: Codec::H264,
                width: 640,
                height: 480,
                frame_rate: Some(25.0),
                color: Colorimetry::default(),
            }),
        }
    }

    const KEYFRAME: [u8; 24] = [
        0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1e, 9, 0, 0, 0, 1, 0x68, 0xce, 6, 0, 0, 1, 0x65, 1, 2, 3, 4,
    ];

    /// The boxes in `bytes`: type and content.
    fn boxes(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            all.push((
                String::from_utf8(bytes[4..8].to_vec()).unwrap(),
                &bytes[8..length],
            ));
            bytes = &bytes[length..];
        }
        all
    }

    fn find<'a>(bytes: &'a [u8], path: &[&str]) -> &'a [u8] {
        path.iter().fold(bytes, |bytes, name| {
            let found = boxes(bytes).into_iter().find(|(kind, _)| kind == name);
            found.unwrap_or_else(|| panic!("no {name}")).1
        })
    }

    #[test]
    fn the_beginning_says_codec_and_size() {
        let fragments = Fragments::begin(&unit(&KEYFRAME, 0, true)).unwrap();
        assert_eq!(fragments.mime(), "video/mp4; codecs=\"avc1.42c01e\"");
        let track = find(fragments.beginning(), &["moov", "trak"]);
        let description = find(track, &["mdia", "minf", "stbl", "stsd"]);
        let entry = find(&description[8..], &["avc1"]);
        assert_eq!(entry[24..28], [2, 128, 1, 224], "640x480");
        let configuration = find(&entry[78..], &["avcC"]);
        assert_eq!(
            configuration,
            [
                1, 0x42, 0xc0, 0x1e, 0xff, 0xe1, 0, 5, 0x67, 0x42, 0xc0, 0x1e, 9, 1, 0, 3, 0x68, 0xce, 6
            ]
        );
        let header = find(track, &["tkhd"]);
        assert_eq!(header[76..], [2, 128, 0, 0, 1, 224, 0, 0]);
    }

    #[test]
    fn a_fragment_holds_its_picture_alone_and_its_time_rises() {
        let mut fragments = Fragments::begin(&unit(&KEYFRAME, 0, true)).unwrap();
        let mut next = |unit: &AccessUnit| {
            let bytes = fragments.fragment(unit);
            let run = find(&bytes, &["moof", "traf", "trun"]);
            let word = |at: usize| u32::from_be_bytes(run[at..at + 4].try_into().unwrap());
            let data = &bytes[word(8) as usize..][..word(16) as usize];
            let time = find(&bytes, &["moof", "traf", "tfdt"]);
            let time = u64::from_be_bytes(time[4..].try_into().unwrap());
            assert_eq!(find(&bytes, &["mdat"]), data);
            (time, word(12), word(20), data.to_vec())
        };
        let second = 1_000_000_000;
        let first = next(&unit(&KEYFRAME, 5 * second, true));
        assert_eq!(first, (0, 3600, 0x0200_0000, vec![0, 0, 0, 5, 0x65, 1, 2, 3, 4]));
        let delta = [0, 0, 0, 1, 9, 0x30, 0, 0, 0, 1, 0x41, 7, 0, 0, 1, 0x41, 8, 0];
        let later = next(&unit(&delta, 6 * second, false));
        assert_eq!(
            later,
            (
                90_000,
                3600,
                0x0101_0000,
                vec![0, 0, 0, 2, 0x41, 7, 0, 0, 0, 2, 0x41, 8]
            )
        );
        assert_eq!(
            next(&unit(&delta, 4 * second, false)).0,
            90_001,
            "time that went back"
        );
    }

    #[test]
    fn what_has_no_parameter_sets_begins_nothing() {
        for data in [
            &[][..],
            &[0, 0, 1],
            &[0, 0, 1, 0x65, 1],
            &[0, 0, 1, 0x67, 0, 0, 1, 0x68, 1],
        ] {
            assert!(Fragments::begin(&unit(data, 0, true)).is_none(), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn nal_units_are_what_was_put_together(
            nals in prop::collection::vec(prop::collection::vec(1..=255_u8, 1..20), 0..8),
            long in prop::collection::vec(any::<bool>(), 8),
        ) {
            let mut stream = Vec::new();
            for (nal, long) in nals.iter().zip(&long) {
                stream.extend_from_slice(if *long { &[0, 0, 0, 1] } else { &[0, 0, 1] });
                stream.extend_from_slice(nal);
            }
            let found: Vec<Vec<u8>> = nal_units(&stream).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(found, nals);
        }

        #[test]
        fn no_bytes_are_too_odd(data in prop::collection::vec(0..10_u8, 0..200), at in any::<u64>(), duration_ns in any::<u64>()) {
            let mut fragments = Fragments::begin(&unit(&KEYFRAME, at, true)).unwrap();
            let odd = AccessUnit { duration_ns, ..unit(&data, u64::MAX, false) };
            prop_assert_eq!(boxes(&fragments.fragment(&odd)).len(), 2);
            let _ = Fragments::begin(&odd);
        }
    }
}
