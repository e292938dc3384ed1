//! An RTSP client by hand, which can stop reading or go whenever a test wants it to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A client that gets the video through its RTSP connection, of which it has read the answers and the first byte.
pub fn play(address: &str) -> TcpStream {
    let host = address
        .strip_prefix("rtsp://")
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut ask = |request: String| -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        // Once it plays, packets come before the answer as well: a dollar, the channel, the length (RFC 2326, 10.12).
        stream.read_exact(&mut byte).expect(&request);
        while byte == *b"$" {
            let mut head = [0; 3];
            stream.read_exact(&mut head).unwrap();
            let length = u16::from_be_bytes([head[1], head[2]]);
            stream.read_exact(&mut vec![0; length.into()]).unwrap();
            stream.read_exact(&mut byte).expect(&request);
        }
        answer.push(byte[0]);
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect(&request);
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).unwrap();
        let length = answer.lines().find_map(|l| l.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |n| n.trim().parse().unwrap());
        stream.read_exact(&mut vec![0; length]).unwrap();
        assert!(answer.starts_with("RTSP/1.0 200"), "{request}{answer}");
        answer
    };
    ask(format!("DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\n\r\n"));
    let answer = ask(format!(
        "SETUP {address}/stream=0 RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
    ));
    let session = answer.lines().find_map(|l| l.strip_prefix("Session: ")).unwrap();
    let session = session.split(';').next().unwrap();
    ask(format!(
        "PLAY {address} RTSP/1.0\r\nCSeq: 3\r\nSession: {session}\r\n\r\n"
    ));
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"$", "interleaved data");
    stream
}
