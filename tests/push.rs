//! Pushes: servers get the video, go away and come back, and nothing else is held up meanwhile.
#![cfg(feature = "gstreamer")]

#[path = "common/made.rs"]
mod made;

#[path = "common/faulty.rs"]
mod faulty;

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use faulty::*;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use segd::output::{StreamOptions, Video, parse_output};
use segd::supervise::Ended;

/// Pictures that a server has decoded.
type Count = Arc<AtomicUsize>;

/// A server that is there for as long as it is held.
trait Server {}

/// Decodes what comes in, and counts the pictures that are as they were sent.
fn count_into(sink: &gst_app::AppSink, count: Count) {
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let Some(bytes) = sample.buffer().and_then(|b| b.map_readable().ok()) else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                // The middle of the luma: a flat picture.
                if bytes[WIDTH * HEIGHT / 2 + WIDTH / 2].abs_diff(SECRET) < 6 {
                    count.fetch_add(1, Relaxed);
                }
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
}

const COUNT: &str = "appsink name=count sync=false max-buffers=4 drop=true";

struct Pipeline(gst::Pipeline);

impl Server for Pipeline {}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.0.set_state(gst::State::Null).unwrap();
    }
}

fn srt_server(port: u16, count: &Count) -> Box<dyn Server> {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "srtsrc uri=srt://127.0.0.1:{port}?mode=listener&passphrase=open-sesame \
         ! tsdemux ! h264parse ! openh264dec ! {COUNT}"
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let sink = pipeline.by_name("count").unwrap();
    count_into(&sink.downcast().unwrap(), count.clone());
    pipeline.set_state(gst::State::Playing).unwrap();
    Box::new(Pipeline(pipeline))
}

/// A server that is a process.
struct Process(Child);

impl Server for Process {}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ffmpeg that waits for one connection.
fn rtmp_server(port: u16, count: &Count) -> Box<dyn Server> {
    let mut child = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-analyzeduration", "500000"])
        .args(["-listen", "1", "-i"])
        .arg(format!("rtmp://127.0.0.1:{port}/live/s3cret"))
        .args([
            "-an",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "yuv420p",
            "-flush_packets",
            "1",
            "pipe:1",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffmpeg is installed");
    let mut pictures = child.stdout.take().unwrap();
    let count = count.clone();
    std::thread::spawn(move || {
        let mut picture = vec![0; WIDTH * HEIGHT * 3 / 2];
        while pictures.read_exact(&mut picture).is_ok() {
            if picture[WIDTH * HEIGHT / 2 + WIDTH / 2].abs_diff(SECRET) < 6 {
                count.fetch_add(1, Relaxed);
            }
        }
    });
    Box::new(Process(child))
}

/// An RTSP server that is sent a stream by `ann`, whose password is `s3cret`, and by nobody else.
struct RtspServer {
    context: gst::glib::MainContext,
    main_loop: gst::glib::MainLoop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server for RtspServer {}

impl Drop for RtspServer {
    fn drop(&mut self) {
        let main_loop = self.main_loop.clone();
        self.context.invoke(move || main_loop.quit());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How the server wants to know who sends.
#[derive(Clone, Copy)]
enum Asks {
    Digest,
    Basic,
}

fn rtsp_server(port: u16, asks: Asks, count: &Count) -> Box<dyn Server> {
    use gstreamer_rtsp_server::gst_rtsp::RTSPAuthMethod;
    use gstreamer_rtsp_server::prelude::*;
    use gstreamer_rtsp_server::{
        RTSPAuth, RTSPFilterResult, RTSPMediaFactory, RTSPServer, RTSPToken, RTSPTransportMode,
    };
    gst::init().unwrap();
    let context = gst::glib::MainContext::new();
    let main_loop = gst::glib::MainLoop::new(Some(&context), false);
    let (ready_tx, ready) = std::sync::mpsc::channel();
    let (thread_context, thread_loop, count) = (context.clone(), main_loop.clone(), count.clone());
    let thread = std::thread::spawn(move || {
        let server = RTSPServer::new();
        server.set_service(&port.to_string());
        server.set_address("127.0.0.1");
        let auth = RTSPAuth::new();
        let token = RTSPToken::builder().field("media.factory.role", "sender").build();
        match asks {
            Asks::Digest => {
                auth.set_supported_methods(RTSPAuthMethod::Digest);
                auth.add_digest("ann", "s3cret", &token);
            }
            Asks::Basic => {
                auth.set_supported_methods(RTSPAuthMethod::Basic);
                auth.add_basic(&RTSPAuth::make_basic("ann", "s3cret"), &token);
            }
        }
        server.set_auth(Some(&auth));
        let factory = RTSPMediaFactory::new();
        factory.set_transport_mode(RTSPTransportMode::RECORD);
        factory.add_role_from_structure(
            &gst::Structure::builder("sender")
                .field("media.factory.access", true)
                .field("media.factory.construct", true)
                .build(),
        );
        factory.set_launch(&format!(
            "( rtph264depay name=depay0 ! h264parse ! openh264dec ! {COUNT} )"
        ));
        factory.connect_media_configure(move |_, media| {
            let bin = media.element().downcast::<gst::Bin>().unwrap();
            let sink = bin.by_name("count").unwrap();
            count_into(&sink.downcast().unwrap(), count.clone());
        });
        server.mount_points().unwrap().add_factory("/live/door", factory);
        let id = server.attach(Some(&thread_context)).unwrap();
        ready_tx.send(()).unwrap();
        thread_loop.run();
        // `SourceId::remove` knows the default context alone.
        if let Some(source) = thread_context.find_source_by_id(&id) {
            source.destroy();
        }
        server.client_filter(Some(&mut |_, _| RTSPFilterResult::Remove));
        while thread_context.pending() {
            thread_context.iteration(false);
        }
    });
    ready.recv().unwrap();
    Box::new(RtspServer {
        context,
        main_loop,
        thread: Some(thread),
    })
}

fn free_tcp() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn free_udp() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// A pipeline that pushes to a server which comes late, goes, and comes back.
fn push_to(address: &str, server: impl Fn(&Count) -> Box<dyn Server>) {
    let opener = parse_output(address)
        .unwrap()
        .opener(&StreamOptions::default())
        .unwrap()
        .expect("an output for pictures");
    let faults = Faults {
        beside: vec![opener],
        ..Faults::default()
    };
    let rig = faults.start();
    let down = |rig: &Rig| rig.metrics.vitals.outputs_down.load(Relaxed) == 1;
    rig.wait("the server is missed", |rig| {
        down(rig) && !rig.metrics.vitals.outputs_trouble().is_empty()
    });
    let trouble = rig.metrics.vitals.outputs_trouble();
    assert!(trouble.contains("127.0.0.1"), "{trouble}");
    for secret in ["s3cret", "sesame"] {
        assert!(!trouble.contains(secret), "{trouble}");
    }
    let seen = rig.pictures().len();
    rig.wait("the other output goes on", |rig| rig.pictures().len() > seen + 50);
    for _ in 0..2 {
        let count = Count::default();
        let running = server(&count);
        rig.wait("pictures reach the server", |_| count.load(Relaxed) > 30);
        rig.wait("no output is down", |rig| !down(rig));
        assert_eq!(rig.metrics.vitals.outputs_trouble(), "");
        drop(running);
        let failures = rig.metrics.vitals.output_failures.load(Relaxed);
        rig.wait("the server is missed again", |rig| {
            down(rig) && rig.metrics.vitals.output_failures.load(Relaxed) > failures
        });
        let seen = rig.pictures().len();
        rig.wait("the other output goes on", |rig| rig.pictures().len() > seen + 50);
    }
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn srt_servers_get_the_video_again_when_they_come_back() {
    let port = free_udp();
    push_to(
        &format!("srt://127.0.0.1:{port}?passphrase=open-sesame&latency=50"),
        |count| srt_server(port, count),
    );
}

#[test]
fn rtmp_servers_get_the_video_again_when_they_come_back() {
    let port = free_tcp();
    push_to(&format!("rtmp://127.0.0.1:{port}/live/s3cret"), |count| {
        rtmp_server(port, count)
    });
}

#[test]
fn rtsp_servers_get_the_video_again_when_they_come_back() {
    let port = free_tcp();
    push_to(
        &format!("rtsp+push://ann:s3cret@127.0.0.1:{port}/live/door"),
        |count| rtsp_server(port, Asks::Digest, count),
    );
}

#[test]
fn an_rtsp_server_may_want_the_password_in_clear_and_refuse_it() {
    let port = free_tcp();
    let count = Count::default();
    let _server = rtsp_server(port, Asks::Basic, &count);
    let start = |user: &str| {
        let output = parse_output(&format!("rtsp+push://{user}@127.0.0.1:{port}/live/door")).unwrap();
        let opener = output.opener(&StreamOptions::default()).unwrap();
        Faults {
            beside: vec![opener.expect("an output for pictures")],
            ..Faults::default()
        }
        .start()
    };
    let rig = start("ann:other");
    rig.wait("it is refused", |rig| {
        !rig.metrics.vitals.outputs_trouble().is_empty()
    });
    let trouble = rig.metrics.vitals.outputs_trouble();
    assert!(
        trouble.contains("user or password are wrong") && !trouble.contains("other"),
        "{trouble}"
    );
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
    assert_eq!(count.load(Relaxed), 0);
    let rig = start("ann:s3cret");
    rig.wait("pictures reach the server", |_| count.load(Relaxed) > 5);
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn what_a_server_can_not_take_is_refused_before_anything_is_opened() {
    let options = StreamOptions {
        codec: segd::output::Codec::H265,
        ..StreamOptions::default()
    };
    let rtmp = parse_output("rtmp://127.0.0.1/live/s3cret").unwrap();
    let why = rtmp.opener(&options).err().unwrap();
    assert_eq!(why.exit_code(), 2);
    let said = why.to_string();
    assert!(
        said.contains("RTMP carries H.264") && !said.contains("s3cret"),
        "{said}"
    );
    // A conversion has no server: it is as fast as it can be.
    let opener = rtmp
        .opener(&StreamOptions::default())
        .unwrap()
        .expect("an output for pictures");
    let why = opener
        .open(&Video::new(format(), Some(30.0), false))
        .err()
        .unwrap();
    assert_eq!(why.exit_code(), 2);
    assert!(why.to_string().contains("--no-pace"), "{why}");
}
