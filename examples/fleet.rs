//! Stands for many segds at one broker and one Prometheus: `scripts/fleet.py` measures both with it.
//!
//! Each stand-in has segd's own MQTT client, desk of events, and HTTP server with `/metrics`. In place of a pipeline a
//! driver counts as one would: frames, inferences, latencies, what is in its zones, and what begins and ends there.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use segd::clock::RealClock;
use segd::events::desk::ZoneState;
use segd::events::event::{self, Event, Kind, Rule};
use segd::events::mqtt::{self, MqttOptions};
use segd::events::{EventDesk, desk};
use segd::health::{Health, Limits, Watched};
use segd::metrics::{Metrics, Stage};
use segd::output::access::RtspAccess;
use segd::pipeline::control::{Control, Looks};
use segd::supervise::{Background, stop_on_signals};
use segd::web::{self, App, Gate};
use segd::{Error, Result};
use vision::infer::RunsOn;
use vision::overlay::OverlayOptions;
use vision::scene::ModelInfo;

/// From one step of the driver to the next.
const STEP: Duration = Duration::from_millis(200);

/// The classes that each camera's zone looks for.
const CLASSES: [&str; 2] = ["person", "car"];

/// Stands for many segds.
#[derive(Debug, Parser)]
struct Args {
    /// How many.
    #[arg(long, default_value_t = 10)]
    count: u16,
    /// TCP port of the first one's HTTP at loopback; the others follow.
    #[arg(long, default_value_t = 20000)]
    first_port: u16,
    /// The broker's port at loopback.
    #[arg(long, default_value_t = 1883)]
    broker: u16,
    /// Presences that begin and end in each camera's zone, a minute.
    #[arg(long, default_value_t = 2.0)]
    presences: f64,
    /// Ends after so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// One stand-in.
struct StandIn {
    health: Health,
    desk: Arc<EventDesk>,
    _http: Background,
    /// Of the presence that is in the zone.
    present: Option<String>,
    /// Until the next change, in steps.
    until: u32,
}

impl StandIn {
    fn start(number: u16, args: &Args) -> Result<Self> {
        let name = format!("cam{number}");
        let clock = RealClock::shared();
        let looks = Looks {
            model: Arc::new(ModelInfo {
                name: "voc21".into(),
                generation: 0,
                classes: Vec::new(),
            }),
            overlay: OverlayOptions::default(),
            colors: Default::default(),
            privacy: None,
        };
        let metrics = Metrics::shared();
        metrics.vitals.set_runs_on(
            RunsOn {
                backend: "tract",
                provider: "CPU".into(),
                precision: "int8".into(),
                version: "0".into(),
                input_size: vision::tensor::InputSize {
                    width: 320,
                    height: 256,
                },
            },
            true,
        );
        let watched = Watched {
            name: name.clone(),
            metrics,
            began_ns: clock.now_ns(),
            clock,
            control: Control::new(looks, Duration::ZERO),
            limits: Limits {
                silence: Duration::from_secs(5),
                mask_age: Duration::from_secs(3),
                warm_up: Duration::from_secs(20),
            },
        };
        let desk = EventDesk::new([name.as_str()]);
        let camera = mqtt::Camera {
            state: desk.cameras()[0].clone(),
            control: watched.control.clone(),
            metrics: watched.metrics.clone(),
            clock: watched.clock.clone(),
            troubles: Arc::new(Vec::new),
        };
        let options = MqttOptions {
            host: "127.0.0.1".into(),
            port: args.broker,
            tls: false,
            ca: None,
            user: None,
            password: None,
            prefix: format!("fleet/{number}"),
            discovery: Some("homeassistant".into()),
            snapshots: false,
        };
        let run = move |state: &desk::SinkState, from: &desk::Queue, stop: &segd::clock::Stop| {
            mqtt::run(&options, vec![camera], state, from, stop);
        };
        desk.attach("mqtt", format!("mqtt://127.0.0.1:{}", args.broker), run)?;
        let health = Health::new(vec![watched]).with_events(desk.clone());
        let rules = RtspAccess::default();
        let listen = format!("127.0.0.1:{}", args.first_port + number);
        let http = web::bind(&listen, &rules)?.serve(App::new(health.clone(), Gate::new(rules)))?;
        Ok(Self {
            health,
            desk,
            _http: http,
            present: None,
            // Not all at once.
            until: u32::from(number) % 50,
        })
    }

    /// What a pipeline of 30 frames a second does in a step.
    fn step(&mut self, steps_of_half: u32) {
        let Some(watched) = self.health.cameras().first() else {
            return;
        };
        let metrics = &watched.metrics;
        let frames = 30 * STEP.as_millis() as u64 / 1000;
        let now = watched.clock.now_ns();
        metrics.captured.fetch_add(frames, Relaxed);
        metrics.composed.fetch_add(frames, Relaxed);
        metrics.inferences.fetch_add(frames / 2, Relaxed);
        metrics.vitals.captured_at(now);
        metrics.vitals.mask_age_ns.store(60_000_000, Relaxed);
        for frame in 0..frames {
            for stage in Stage::ALL {
                metrics.record(stage, 1_000_000 * (1 + stage as u64 + frame % 3), 500_000);
            }
            metrics.mask_age.record(30_000_000 * (1 + frame % 4));
            metrics.capture_to_stream.record(5_000_000 + 1_000_000 * frame);
        }
        let begins = self.until == 0 && self.present.is_none();
        let ends = self.until == 0 && self.present.is_some();
        self.until = self.until.checked_sub(1).unwrap_or(steps_of_half);
        let occupied = begins || self.present.is_some() && !ends;
        self.desk.cameras()[0].update(now, |zones| {
            zones.clear();
            for class in CLASSES {
                zones.push(ZoneState {
                    occupied: Some(occupied && class == CLASSES[0]),
                    area: if occupied { 0.08 } else { 0.0 },
                    regions: u32::from(occupied),
                    ..ZoneState::new("drive", class)
                });
            }
        });
        if begins || ends {
            let id = self
                .present
                .take()
                .unwrap_or_else(|| event::new_id(SystemTime::now()));
            if begins {
                self.present = Some(id.clone());
            }
            self.desk.publish(presence(&watched.name, id, begins));
        }
    }
}

fn presence(camera: &str, id: String, begins: bool) -> Event {
    let time = event::text(SystemTime::now());
    Event {
        v: event::VERSION,
        id,
        kind: if begins { Kind::Start } else { Kind::End },
        rule: Rule::Presence,
        camera: camera.into(),
        zone: Some("drive".into()),
        line: None,
        direction: None,
        class: CLASSES[0].into(),
        since: time.clone(),
        time,
        mask_age_ms: 60.0,
        area: 0.08,
        regions: Some(1),
        tracks: None,
        track: None,
        bbox: Some([0.4, 0.5, 0.1, 0.2]),
        dwell_s: 0.3,
        score: 1.0,
        snapshot: None,
        clip: None,
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !(args.presences > 0.0 && args.presences <= 60.0) {
        return Err(Error::usage(format!(
            "--presences {}, expected above 0 and at most 60",
            args.presences
        )));
    }
    let stop = stop_on_signals()?;
    let mut all = (0..args.count)
        .map(|number| StandIn::start(number, &args))
        .collect::<Result<Vec<_>>>()?;
    // The script waits for this line.
    println!("started {}", all.len());
    std::io::stdout()
        .flush()
        .map_err(|e| Error::fatal("standard output can't be written").caused_by(e))?;
    let steps_of_half = (30.0 / args.presences / STEP.as_secs_f64()).ceil() as u32;
    let began = Instant::now();
    let mut next = began;
    while began.elapsed() < Duration::from_secs(args.seconds) {
        for one in &mut all {
            one.step(steps_of_half);
        }
        next += STEP;
        // Behind its time, it goes on from there.
        next = next.max(Instant::now());
        if stop.recv_deadline(next).is_ok() {
            break;
        }
    }
    let sinks = all.iter().flat_map(|one| one.desk.sinks());
    let (mut delivered, mut lost, mut troubled) = (0, 0, 0);
    for sink in sinks {
        delivered += sink.delivered.load(Relaxed);
        lost += sink.lost();
        troubled += u32::from(sink.trouble().is_some());
    }
    println!("events delivered {delivered}, lost {lost}; {troubled} without a broker");
    // Each one's thread would be waited for in turn.
    std::process::exit(0);
}
