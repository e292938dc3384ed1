//! H.264 units as fragmented MP4 (ISO/IEC 14496-12 and -15): a beginning, then one fragment for each picture, so that a
//! player has each as soon as it is encoded.

use super::AccessUnit;

/// Ticks a second of the media's time.
const TIMESCALE: u64 = 90_000;

/// The kinds of NAL units that are looked for (ITU-T H.264, table 7-1).
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;

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

fn kind(nal: &[u8]) -> u8 {
    nal[0] & 0x1f
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

/// One stream's fragments.
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
    /// A stream that begins with this keyframe; `None` if it is not H.264 with its parameter sets.
    pub fn begin(keyframe: &AccessUnit) -> Option<Self> {
        let find = |wanted| nal_units(&keyframe.data).find(|nal| kind(nal) == wanted);
        let (sps, pps) = (find(SPS)?, find(PPS)?);
        let [_, profile, compatibility, level, ..] = *sps else {
            return None;
        };
        let (width, height) = (keyframe.parameters.width, keyframe.parameters.height);
        Some(Self {
            mime: format!("video/mp4; codecs=\"avc1.{profile:02x}{compatibility:02x}{level:02x}\""),
            beginning: beginning(
                sps,
                pps,
                (u16::try_from(width).ok()?, u16::try_from(height).ok()?),
            )?,
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
        let ticks = |ns: u64| {
            u64::try_from(u128::from(ns) * u128::from(TIMESCALE) / 1_000_000_000).unwrap_or(u64::MAX)
        };
        let captured = ticks(unit.captured_at_ns);
        let at = match self.times {
            None => 0,
            Some((first, last)) => captured.saturating_sub(first).max(last + 1),
        };
        self.times = Some((self.times.map_or(captured, |(first, _)| first), at));
        self.number = self.number.wrapping_add(1);

        let mut sample = Vec::with_capacity(unit.data.len() + 16);
        for nal in nal_units(&unit.data).filter(|nal| !matches!(kind(nal), SPS | PPS | DELIMITER)) {
            sample.extend(u32::try_from(nal.len()).unwrap_or(u32::MAX).to_be_bytes());
            sample.extend_from_slice(nal);
        }
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        // Whether others are needed to decode it: no, or yes.
        let flags: u32 = if unit.is_keyframe {
            0x0200_0000
        } else {
            0x0101_0000
        };
        let duration = u32::try_from(ticks(unit.duration_ns)).unwrap_or(u32::MAX).max(1);
        // The data follows the fragment's head, whose length does not depend on what is in it.
        let head = |offset: u32| {
            let run = full(
                b"trun",
                0,
                // Offset; duration, size and flags of each sample.
                0x701,
                &[
                    &1u32.to_be_bytes(),
                    &offset.to_be_bytes(),
                    &duration.to_be_bytes(),
                    &length(sample.len()),
                    &flags.to_be_bytes(),
                ],
            );
            // Offsets count from the fragment's first byte.
            let header = full(b"tfhd", 0, 0x02_0000, &[&1u32.to_be_bytes()]);
            let time = full(b"tfdt", 1, 0, &[&at.to_be_bytes()]);
            let track = boxed(b"traf", &[&header, &time, &run]);
            boxed(
                b"moof",
                &[&full(b"mfhd", 0, 0, &[&self.number.to_be_bytes()]), &track],
            )
        };
        let data_at = head(0).len() + 8;
        let mut out = head(u32::try_from(data_at).unwrap_or(u32::MAX));
        out.extend(boxed(b"mdat", &[&sample]));
        out
    }
}

/// File type and movie: one H.264 track of pictures of this size.
fn beginning(sps: &[u8], pps: &[u8], (width, height): (u16, u16)) -> Option<Vec<u8>> {
    let timescale = u32::try_from(TIMESCALE).ok()?.to_be_bytes();
    let [w, h] = [width, height].map(u16::to_be_bytes);
    let short = |n: usize| u16::try_from(n).ok().map(u16::to_be_bytes);

    let mut configuration = vec![1, sps[1], sps[2], sps[3], 0xff, 0xe1];
    configuration.extend(short(sps.len())?);
    configuration.extend_from_slice(sps);
    configuration.push(1);
    configuration.extend(short(pps.len())?);
    configuration.extend_from_slice(pps);
    // The high profiles say how colours are sampled: 4:2:0, 8 bits each.
    if matches!(sps[1], 100 | 110 | 122 | 144) {
        configuration.extend([0xfd, 0xf8, 0xf8, 0]);
    }
    let avcc = boxed(b"avcC", &[&configuration]);
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
    let avc1 = boxed(b"avc1", &[&entry, &avcc]);

    let one = 1u32.to_be_bytes();
    let none = 0u32.to_be_bytes();
    let table = boxed(
        b"stbl",
        &[
            &full(b"stsd", 0, 0, &[&one, &avc1]),
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
