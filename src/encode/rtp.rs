//! Encoded units as RTP packets (RFC 3550): H.264 (RFC 6184) and H.265 (RFC 7798), in the modes that every receiver has:
//! a NAL unit a packet, and large ones in fragments. And what a session description (RFC 8866) says of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fragments::nal_units;
use super::{AccessUnit, Codec};

/// The payload type, of those that a session description explains.
const PAYLOAD_TYPE: u8 = 96;

/// Ticks a second of RTP's time for video.
const CLOCK: u64 = 90_000;

/// Bytes of a NAL unit, or of its fragment, in a packet: with all heads it fits into a datagram of 1500 bytes, which is how
/// servers send it on.
const MOST: usize = 1380;

/// Kinds of NAL units that stand for parts of another (RFC 6184, table 1; RFC 7798, section 4.4.3).
const FRAGMENT_264: u8 = 28;
const FRAGMENT_265: u8 = 49;

/// Kinds of parameter sets, in the order in which descriptions name them.
const SETS_264: [u8; 2] = [7, 8];
const SETS_265: [u8; 3] = [32, 33, 34];

/// Kinds of delimiters of pictures, which packets have marks for.
const DELIMITER_264: u8 = 9;
const DELIMITER_265: u8 = 35;

fn kind(codec: Codec, nal: &[u8]) -> u8 {
    match codec {
        Codec::H264 => nal[0] & 0x1f,
        Codec::H265 => nal[0] >> 1 & 0x3f,
    }
}

/// Nanoseconds as RTP counts them, which begins anew every 13 hours.
pub fn rtp_time(ns: u64) -> u32 {
    // What is cut off is what begins anew.
    (u128::from(ns) * u128::from(CLOCK) / 1_000_000_000) as u32
}

/// One stream of packets.
#[derive(Debug)]
pub struct Packets {
    source: u32,
    sequence: u16,
    /// Packets so far, and the bytes in them, as reports count them.
    count: u32,
    bytes: u32,
    packet: Vec<u8>,
}

impl Packets {
    /// A stream of the synchronization source `source`, whose first packet has the number `sequence`.
    pub fn new(source: u32, sequence: u16) -> Self {
        Self {
            source,
            sequence,
            count: 0,
            bytes: 0,
            packet: Vec::with_capacity(MOST + 16),
        }
    }

    /// Gives the packets of a unit to `take`, one after the other. `time` is the picture's.
    pub fn of(&mut self, unit: &AccessUnit, time: u32, mut take: impl FnMut(&[u8])) {
        let codec = unit.parameters.codec;
        let delimiter = match codec {
            Codec::H264 => DELIMITER_264,
            Codec::H265 => DELIMITER_265,
        };
        let mut nals = nal_units(&unit.data)
            .filter(|nal| kind(codec, nal) != delimiter)
            .peekable();
        while let Some(nal) = nals.next() {
            let is_last = nals.peek().is_none();
            if nal.len() <= MOST {
                self.packet(time, is_last, &[nal], &mut take);
                continue;
            }
            let (head, head_length, kind) = match codec {
                Codec::H264 => ([nal[0] & 0xe0 | FRAGMENT_264, 0], 1, nal[0] & 0x1f),
                // A NAL unit of this length has its second byte.
                Codec::H265 => ([nal[0] & 0x81 | FRAGMENT_265 << 1, nal[1]], 2, nal[0] >> 1 & 0x3f),
            };
            let parts = nal[head_length..].chunks(MOST - 3);
            let last = parts.len() - 1;
            for (number, part) in parts.enumerate() {
                let starts = u8::from(number == 0) << 7;
                let ends = u8::from(number == last) << 6;
                let parts: [&[u8]; 3] = [&head[..head_length], &[starts | ends | kind], part];
                self.packet(time, is_last && number == last, &parts, &mut take);
            }
        }
    }

    fn packet(&mut self, time: u32, is_last: bool, payload: &[&[u8]], take: &mut impl FnMut(&[u8])) {
        self.packet.clear();
        self.packet.extend([0x80, u8::from(is_last) << 7 | PAYLOAD_TYPE]);
        self.packet.extend(self.sequence.to_be_bytes());
        self.packet.extend(time.to_be_bytes());
        self.packet.extend(self.source.to_be_bytes());
        let head = self.packet.len();
        payload
            .iter()
            .for_each(|part| self.packet.extend_from_slice(part));
        self.sequence = self.sequence.wrapping_add(1);
        self.count = self.count.wrapping_add(1);
        let bytes = u32::try_from(self.packet.len() - head).unwrap_or(u32::MAX);
        self.bytes = self.bytes.wrapping_add(bytes);
        take(&self.packet);
    }

    /// A sender's report (RFC 3550, section 6.4.1) with the source's name: a picture's `time` was taken at `unix_ns`.
    pub fn report(&self, time: u32, unix_ns: u64) -> Vec<u8> {
        /// Seconds from 1900 to 1970.
        const NTP: u64 = 2_208_988_800;
        // The seconds of this era of NTP, which ends in 2036 as NTP's own do.
        let seconds = (unix_ns / 1_000_000_000).wrapping_add(NTP) as u32;
        let fraction = ((u128::from(unix_ns % 1_000_000_000) << 32) / 1_000_000_000) as u32;
        let mut report = vec![0x80, 200, 0, 6];
        for word in [self.source, seconds, fraction, time, self.count, self.bytes] {
            report.extend(word.to_be_bytes());
        }
        // A description of one item: its canonical name, "segd".
        report.extend([0x81, 202, 0, 3]);
        report.extend(self.source.to_be_bytes());
        report.extend(b"\x01\x04segd\0\0");
        report
    }
}

/// A description of a session with this keyframe's stream, whose address ends in `control`. `None` if its parameter sets
/// are missing.
pub fn description(keyframe: &AccessUnit, control: &str) -> Option<String> {
    let codec = keyframe.parameters.codec;
    let find = |wanted: u8| nal_units(&keyframe.data).find(|nal| kind(codec, nal) == wanted);
    let format = match codec {
        Codec::H264 => {
            let [sps, pps] = SETS_264.map(find);
            let (sps, pps) = (sps?, pps?);
            let profile = sps.get(1..4)?;
            format!(
                "packetization-mode=1;profile-level-id={:02X}{:02X}{:02X};sprop-parameter-sets={},{}",
                profile[0],
                profile[1],
                profile[2],
                STANDARD.encode(sps),
                STANDARD.encode(pps)
            )
        }
        Codec::H265 => {
            let [vps, sps, pps] = SETS_265.map(find);
            format!(
                "sprop-vps={};sprop-sps={};sprop-pps={}",
                STANDARD.encode(vps?),
                STANDARD.encode(sps?),
                STANDARD.encode(pps?)
            )
        }
    };
    let name = codec.name().to_ascii_uppercase();
    Some(format!(
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=segd\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n\
         m=video 0 RTP/AVP {PAYLOAD_TYPE}\r\na=rtpmap:{PAYLOAD_TYPE} {name}/{CLOCK}\r\n\
         a=fmtp:{PAYLOAD_TYPE} {format}\r\na=control:{control}\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::{Parameters, made_unit};

    fn unit(codec: Codec, nals: &[Vec<u8>]) -> AccessUnit {
        let made = made_unit(0, true, 0);
        let data: Vec<u8> = nals
            .iter()
            .flat_map(|nal| [&[0, 0, 0, 1], nal.as_slice()].concat())
            .collect();
        AccessUnit {
            data: data.into(),
            parameters: std::sync::Arc::new(Parameters {
                codec,
                ..*made.parameters
            }),
            ..made
        }
    }

    /// What a receiver makes of packets: the NAL units, each put together from its fragments.
    fn received(codec: Codec, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = Vec::new();
        for packet in packets {
            let payload = &packet[12..];
            let (fragment, head) = match codec {
                Codec::H264 => (FRAGMENT_264, 1),
                Codec::H265 => (FRAGMENT_265, 2),
            };
            if kind(codec, payload) != fragment {
                nals.push(payload.to_vec());
                continue;
            }
            let what = payload[head];
            if what & 0x80 != 0 {
                nals.push(match codec {
                    Codec::H264 => vec![payload[0] & 0xe0 | what & 0x1f],
                    Codec::H265 => vec![payload[0] & 0x81 | (what & 0x3f) << 1, payload[1]],
                });
            }
            nals.last_mut()
                .expect("a fragment begins")
                .extend(&payload[head + 1..]);
        }
        nals
    }

    proptest! {
        #[test]
        fn what_is_received_is_what_was_sent(
            h265 in any::<bool>(),
            nals in prop::collection::vec((1..8_u8, 3..4 * MOST), 1..6),
        ) {
            let codec = if h265 { Codec::H265 } else { Codec::H264 };
            let nals: Vec<Vec<u8>> = nals
                .iter()
                .map(|(kind, length)| {
                    let mut nal: Vec<u8> = (0..*length).map(|at| (at % 250) as u8 + 1).collect();
                    nal[0] = if h265 { kind << 1 } else { 0x60 | kind };
                    nal
                })
                .collect();
            let mut stream = Packets::new(0x1234_5678, 65_534);
            let mut packets = Vec::new();
            stream.of(&unit(codec, &nals), 77, |packet| packets.push(packet.to_vec()));
            for (number, packet) in packets.iter().enumerate() {
                prop_assert!(packet.len() <= MOST + 12);
                prop_assert_eq!(packet[0], 0x80);
                let is_last = number + 1 == packets.len();
                prop_assert_eq!(packet[1], if is_last { 0xe0 } else { 0x60 });
                let sequence = 65_534_u16.wrapping_add(number as u16);
                prop_assert_eq!(&packet[2..4], &sequence.to_be_bytes());
                prop_assert_eq!(&packet[4..8], &77_u32.to_be_bytes());
                prop_assert_eq!(&packet[8..12], &0x1234_5678_u32.to_be_bytes());
            }
            prop_assert_eq!(received(codec, &packets), nals);
        }
    }

    #[test]
    fn delimiters_are_left_out_and_a_unit_of_nothing_is_no_packet() {
        let mut count = 0;
        let nals = [vec![0x09, 0xf0], vec![0x65, 1, 2, 3]];
        Packets::new(1, 1).of(&unit(Codec::H264, &nals), 0, |_| count += 1);
        assert_eq!(count, 1);
        Packets::new(1, 1).of(&unit(Codec::H264, &[]), 0, |_| count += 1);
        assert_eq!(count, 1);
    }

    #[test]
    fn a_description_names_the_parameter_sets() {
        let h264 = [vec![0x67, 0x42, 0xc0, 0x1f, 9], vec![0x68, 1], vec![0x65, 1]];
        let text = description(&unit(Codec::H264, &h264), "streamid=0").unwrap();
        assert!(text.contains("a=rtpmap:96 H264/90000\r\n"), "{text}");
        assert!(
            text.contains("profile-level-id=42C01F;sprop-parameter-sets=Z0LAHwk=,aAE=\r\n"),
            "{text}"
        );
        assert!(text.ends_with("a=control:streamid=0\r\n"), "{text}");
        let h265 = [vec![64, 1, 1], vec![66, 1, 2], vec![68, 1, 3], vec![38, 1, 4]];
        let text = description(&unit(Codec::H265, &h265), "streamid=0").unwrap();
        assert!(text.contains("H265/90000"), "{text}");
        assert!(
            text.contains("sprop-vps=QAEB;sprop-sps=QgEC;sprop-pps=RAED\r\n"),
            "{text}"
        );
        assert_eq!(description(&unit(Codec::H264, &h264[1..]), "a"), None);
    }

    #[test]
    fn a_report_says_when_a_picture_was_taken_and_what_was_sent() {
        let mut stream = Packets::new(7, 0);
        stream.of(&unit(Codec::H264, &[vec![0x65, 1, 2, 3]]), 90_000, |_| ());
        let report = stream.report(90_000, 1_500_000_000);
        let word = |at: usize| u32::from_be_bytes(report[at..at + 4].try_into().unwrap());
        assert_eq!((report[1], word(4)), (200, 7));
        // 1.5 s after 1970.
        assert_eq!((word(8), word(12)), (2_208_988_801, 1 << 31));
        assert_eq!((word(16), word(20), word(24)), (90_000, 1, 4));
        assert_eq!(report.len() % 4, 0);
        assert_eq!(report.len(), 28 + 4 * (1 + usize::from(report[31])));
    }

    #[test]
    fn time_is_counted_in_ticks_and_begins_anew() {
        assert_eq!(rtp_time(1_000_000_000), 90_000);
        let day = rtp_time(86_400_000_000_000);
        assert_eq!(u64::from(day), 86_400 * CLOCK % (1 << 32));
    }
}
