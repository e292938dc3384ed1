//! Watches one camera's scenes: measures its zones, steps its rules, and tells what begins and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::desk::{CameraState, EventDesk, ZoneState};
use super::event::{Event, Kind, Rule, VERSION, WallTime, new_id};
use super::gate::{Direction, Gate};
use super::geometry::{Line, Polygon, normalized};
use super::measure::{ClassCount, Inside, Measured, Meter, TrackCount, TrackSeen, ZoneCount};
use super::rules::{Change, Delays, Latch, Level};
use crate::clock::{SharedClock, TimeNs};
use crate::observe::{Observer, Seen};
use crate::pipeline::control::{Control, Looks};
use crate::supervise::Background;
use vision::error::Result;
use vision::scene::{ModelInfo, Rect, Scene};

/// A part of the picture that is watched.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// Its name, another one for each zone and line.
    pub name: String,
    /// Where it is.
    pub polygon: Polygon,
    /// Names of the classes that are looked for; all that may be told if empty.
    pub classes: Vec<String>,
    /// The share of the zone from which on a class is in it.
    pub enter: f64,
    /// The share below which it is not any more; at most `enter`.
    pub leave: f64,
    /// How long every picture must show that before it counts.
    pub after: Duration,
    /// A class or track that stays so long is told of once more.
    pub dwell: Option<Duration>,
    /// More regions, or tracks, than this are told of.
    pub at_most: Option<u32>,
    /// A class that is not there for so long is told of.
    pub none_for: Option<Duration>,
    /// A region has at least this share of the picture.
    pub min_region: f64,
    /// When a track is inside.
    pub inside: Inside,
}

/// A line that is watched.
#[derive(Debug, Clone, PartialEq)]
pub struct LineRule {
    /// Its name, another one for each zone and line.
    pub name: String,
    /// Where it is.
    pub line: Line,
    /// Names of the classes whose tracks count; all that may be told if empty.
    pub classes: Vec<String>,
    /// The only way that counts.
    pub direction: Option<Direction>,
    /// A track is on a side once it is this far from the line, in picture heights.
    pub margin: f64,
}

/// What is watched in one camera's pictures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Watch {
    /// Zones.
    pub zones: Vec<Zone>,
    /// Lines.
    pub lines: Vec<LineRule>,
    /// Whether classes are told of that the pictures hide.
    pub tells_hidden: bool,
}

impl Watch {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.lines.is_empty()
    }

    /// Each zone and line as its name in the configuration, and the classes that it names.
    pub fn named_classes(&self) -> impl Iterator<Item = (String, &[String])> {
        let zones = self
            .zones
            .iter()
            .map(|zone| (format!("zone {}", zone.name), zone.classes.as_slice()));
        let lines = self
            .lines
            .iter()
            .map(|line| (format!("line {}", line.name), line.classes.as_slice()));
        zones.chain(lines)
    }

    /// The classes of a model that a zone or line looks for. Those that are hidden are not among them, unless that is
    /// allowed.
    fn classes(&self, names: &[String], looks: &Looks) -> Vec<u16> {
        let hidden = looks.privacy.as_ref().map(|privacy| &privacy.redact.how);
        let is_hidden = |index: usize| hidden.is_some_and(|how| how.get(index).is_some_and(Option::is_some));
        let classes = looks.model.classes.iter().enumerate();
        classes
            .filter(|(_, class)| match names.is_empty() {
                true => !class.background,
                false => names.iter().any(|name| name.eq_ignore_ascii_case(&class.name)),
            })
            .filter(|(index, _)| self.tells_hidden || !is_hidden(*index))
            .filter_map(|(index, _)| u16::try_from(index).ok())
            .collect()
    }
}

/// How much of what [`Inside`] asks for makes a track be inside, and below how much it is not any more.
const TRACK_ENTERS: f64 = 0.5;
const TRACK_LEAVES: f64 = 0.25;

/// Watches a camera while it exists.
pub struct Watching {
    watch: Arc<ArcSwap<Watch>>,
    parts: WatcherParts,
    thread: Option<Background>,
}

/// What a watcher is made of.
#[derive(Clone)]
pub struct WatcherParts {
    /// The camera's pipeline.
    pub control: Arc<Control>,
    /// Where events go.
    pub desk: Arc<EventDesk>,
    /// What is known of the camera.
    pub camera: Arc<CameraState>,
    /// The clock of its pictures.
    pub clock: SharedClock,
}

impl Watching {
    /// Watches nothing yet.
    pub fn new(parts: WatcherParts) -> Self {
        Self {
            watch: Arc::default(),
            parts,
            thread: None,
        }
    }

    /// Watches this from the next picture on. What has begun in a zone that stays goes on.
    ///
    /// # Errors
    /// Fatal if a thread can't be started.
    pub fn set(&mut self, watch: Watch) -> Result<()> {
        let watches = !watch.is_empty();
        let watch = Arc::new(watch);
        self.parts.camera.set_watch(watch.clone());
        self.watch.store(watch);
        if watches && self.thread.is_none() {
            let watcher = Watcher::new(self.watch.clone(), self.parts.clone());
            let scenes = &self.parts.control.scenes;
            self.thread = Some(scenes.observe(Box::new(watcher))?);
        }
        Ok(())
    }
}

/// What has begun.
#[derive(Debug, Default)]
struct Course {
    latch: Latch,
    id: String,
}

/// A track in a zone.
#[derive(Debug, Default)]
struct TrackCourse {
    course: Course,
    seen: bool,
}

/// A class in a zone.
#[derive(Debug, Default)]
struct ClassCourse {
    presence: Course,
    too_many: Course,
    absence: Course,
    tracks: BTreeMap<u32, TrackCourse>,
}

/// What stays the same while configuration, model and looks do.
struct Current {
    watch: Arc<Watch>,
    looks: Arc<Looks>,
    meter: Meter,
    /// Of each line, the classes that count.
    line_classes: Vec<Vec<u16>>,
    /// Of each zone, its classes, as the meter counts them.
    courses: Vec<Vec<ClassCourse>>,
}

/// Watches one camera's scenes.
pub struct Watcher {
    watch: Arc<ArcSwap<Watch>>,
    parts: WatcherParts,
    current: Option<Current>,
    gates: Vec<(LineRule, Gate)>,
    /// The classes of the model of this generation that have had tracks: what of them has none is not told of.
    tracked: (u64, BTreeSet<u16>),
}

impl Observer for Watcher {
    fn name(&self) -> &'static str {
        "events"
    }

    fn seen(&mut self, seen: &Seen) {
        let looks = self.parts.control.looks();
        match seen {
            // While a model is swapped its scenes and its looks come apart for a moment.
            Seen::Scene(scene)
                if self.parts.camera.is_enabled() && scene.model.generation == looks.model.generation =>
            {
                self.look(scene, &looks);
            }
            _ => self.know_nothing(seen.captured_at_ns()),
        }
    }
}

/// What all events of one picture have in common.
struct Moment<'a> {
    at: TimeNs,
    mask_age_ms: f64,
    size: (usize, usize),
    wall: WallTime,
    parts: &'a WatcherParts,
}

/// What an event tells of.
struct Told<'a> {
    rule: Rule,
    zone: Option<&'a str>,
    line: Option<(&'a str, Direction)>,
    class: &'a str,
    area: f64,
    regions: Option<u32>,
    tracks: Option<u32>,
    track: Option<u32>,
    bbox: Rect,
    score: f32,
}

impl Moment<'_> {
    fn publish(&self, id: &str, kind: Kind, since: TimeNs, told: &Told<'_>) {
        let (width, height) = self.size;
        self.parts.desk.publish(Event {
            v: VERSION,
            id: id.to_owned(),
            kind,
            rule: told.rule,
            camera: self.parts.camera.name.clone(),
            zone: told.zone.map(str::to_owned),
            line: told.line.map(|(name, _)| name.to_owned()),
            direction: told.line.map(|(_, direction)| direction),
            class: told.class.to_owned(),
            time: self.wall.text(self.at),
            since: self.wall.text(since),
            mask_age_ms: self.mask_age_ms,
            area: told.area,
            regions: told.regions,
            tracks: told.tracks,
            track: told.track,
            bbox: (told.bbox.width > 0).then(|| normalized(told.bbox, width, height)),
            dwell_s: self.at.saturating_sub(since) as f64 / 1e9,
            score: f64::from(told.score),
            snapshot: None,
            clip: None,
        });
    }

    /// Steps a course, and tells what changes.
    fn step(&self, course: &mut Course, level: Level, delays: &Delays, told: &Told<'_>) {
        let Some((change, since)) = course.latch.step(self.at, level, delays) else {
            return;
        };
        let kind = match change {
            Change::Start => {
                course.id = new_id(self.wall.of(self.at));
                Kind::Start
            }
            Change::Dwell => Kind::Update,
            Change::End => Kind::End,
        };
        self.publish(&course.id, kind, since, told);
    }
}

impl Watcher {
    /// A watcher that has seen nothing.
    pub fn new(watch: Arc<ArcSwap<Watch>>, parts: WatcherParts) -> Self {
        Self {
            watch,
            parts,
            current: None,
            gates: Vec::new(),
            tracked: (0, BTreeSet::new()),
        }
    }

    fn know_nothing(&mut self, at: TimeNs) {
        self.parts.camera.update(at, |zones| {
            zones.iter_mut().for_each(|zone| zone.occupied = None);
        });
        let delays = Delays::default();
        let courses = self.current.iter_mut().flat_map(|current| &mut current.courses);
        for course in courses.flatten() {
            let tracks = course.tracks.values_mut().map(|track| &mut track.course);
            let all = [&mut course.presence, &mut course.too_many, &mut course.absence];
            for course in all.into_iter().chain(tracks) {
                course.latch.step(at, Level::Unknown, &delays);
            }
        }
    }

    fn look(&mut self, scene: &Scene, looks: &Arc<Looks>) {
        let parts = self.parts.clone();
        let moment = Moment {
            at: scene.captured_at_ns,
            mask_age_ms: scene.map_age_ns() as f64 / 1e6,
            size: (scene.map.width, scene.map.height),
            wall: WallTime::now(&parts.clock),
            parts: &parts,
        };
        let mut current = self.make_ready(scene, looks, &moment);
        current.meter.measure(&scene.map, &scene.segments);
        let generation = scene.model.generation;
        if self.tracked.0 != generation {
            self.tracked = (generation, BTreeSet::new());
        }
        let tracked = &mut self.tracked.1;
        tracked.extend(current.meter.tracks().iter().map(|track| track.class));
        for (zone, count, courses) in current.zones() {
            for (class, course) in count.classes.iter().zip(courses) {
                let tracks = count.tracks.iter().filter(|track| track.class == class.class);
                let tracks = tracked.contains(&class.class).then_some(tracks);
                course.step(
                    zone,
                    class_name(&scene.model, class.class),
                    class,
                    tracks,
                    &moment,
                );
            }
        }
        self.step_lines(&current, &scene.model, &moment);
        current.tell_state(&parts.camera, &scene.model, moment.at);
        self.current = Some(current);
    }

    /// Rasters and classes for this scene; ends what is not watched any more.
    fn make_ready(&mut self, scene: &Scene, looks: &Arc<Looks>, moment: &Moment<'_>) -> Current {
        let watch = self.watch.load_full();
        let old = match self.current.take() {
            Some(current) if current.is_for(&watch, looks, scene) => return current,
            old => old,
        };
        let mut before: BTreeMap<(String, String), ClassCourse> = BTreeMap::new();
        if let Some(mut old) = old {
            let model = old.looks.model.clone();
            for (zone, count, courses) in old.zones() {
                for (class, course) in count.classes.iter().zip(courses) {
                    let class = class_name(&model, class.class);
                    before.insert((zone.name.clone(), class.to_owned()), std::mem::take(course));
                }
            }
        }
        let measured = |zone: &Zone| Measured {
            polygon: zone.polygon.clone(),
            classes: watch.classes(&zone.classes, looks),
            min_region: zone.min_region,
            inside: zone.inside,
        };
        let zones: Vec<Measured> = watch.zones.iter().map(measured).collect();
        let courses = watch.zones.iter().zip(&zones).map(|(zone, measured)| {
            let names = measured.classes.iter().map(|c| class_name(&looks.model, *c));
            names
                .map(|class| before.remove(&(zone.name.clone(), class.to_owned())))
                .map(Option::unwrap_or_default)
                .collect()
        });
        let courses = courses.collect();
        for ((zone, class), mut course) in before {
            course.end(&zone, &class, moment);
        }
        let mut gates = std::mem::take(&mut self.gates);
        let of_lines = watch.lines.iter().map(|rule| {
            let known = gates.iter().position(|(old, _)| old == rule);
            match known {
                Some(at) => gates.swap_remove(at),
                None => (rule.clone(), Gate::new(rule.line, rule.margin)),
            }
        });
        self.gates = of_lines.collect();
        let of_line = |line: &LineRule| watch.classes(&line.classes, looks);
        Current {
            meter: Meter::new(&zones, scene.map.width, scene.map.height),
            line_classes: watch.lines.iter().map(of_line).collect(),
            looks: looks.clone(),
            courses,
            watch,
        }
    }

    fn step_lines(&mut self, current: &Current, model: &ModelInfo, moment: &Moment<'_>) {
        let aspect = moment.size.0 as f64 / moment.size.1.max(1) as f64;
        for ((rule, gate), classes) in self.gates.iter_mut().zip(&current.line_classes) {
            let tracks = current.meter.tracks().iter();
            for seen in tracks.filter(|track| classes.contains(&track.class)) {
                let crossed = gate.step(moment.at, seen.track, seen.footing, aspect);
                let wanted = crossed.filter(|way| rule.direction.is_none_or(|only| only == *way));
                if let Some(direction) = wanted {
                    let told = Told::of_crossing(rule, direction, class_name(model, seen.class), seen);
                    moment.publish(&new_id(moment.wall.of(moment.at)), Kind::Start, moment.at, &told);
                }
            }
            gate.forget(moment.at);
        }
    }
}

impl Current {
    fn is_for(&self, watch: &Arc<Watch>, looks: &Arc<Looks>, scene: &Scene) -> bool {
        Arc::ptr_eq(&self.watch, watch) && Arc::ptr_eq(&self.looks, looks) && self.meter.is_for(&scene.map)
    }

    /// Each zone, what is in it, and what has begun there.
    fn zones(&mut self) -> impl Iterator<Item = (&Zone, &ZoneCount, &mut Vec<ClassCourse>)> {
        let zones = self.watch.zones.iter().zip(self.meter.zones());
        zones
            .zip(&mut self.courses)
            .map(|((zone, count), courses)| (zone, count, courses))
    }

    fn tell_state(&mut self, camera: &CameraState, model: &ModelInfo, at: TimeNs) {
        camera.update(at, |states| {
            let mut known = 0;
            for (zone, count, courses) in self.zones() {
                for (class, course) in count.classes.iter().zip(courses) {
                    let name = class_name(model, class.class);
                    let is_new = states
                        .get(known)
                        .is_none_or(|state| *state.zone != *zone.name || *state.class != *name);
                    if is_new {
                        states.truncate(known);
                        states.push(ZoneState::new(&zone.name, name));
                    }
                    let state = &mut states[known];
                    state.occupied = Some(course.is_there());
                    state.tracks = course.tracks_inside();
                    (state.area, state.regions) = (class.area, class.regions);
                    known += 1;
                }
            }
            states.truncate(known);
        });
    }
}

fn class_name(model: &ModelInfo, class: u16) -> &str {
    model
        .classes
        .get(usize::from(class))
        .map_or("", |class| class.name.as_str())
}

impl<'a> Told<'a> {
    fn of_class(zone: &'a str, class: &'a str, rule: Rule, count: &ClassCount, tracks: Option<u32>) -> Self {
        Self {
            rule,
            zone: Some(zone),
            line: None,
            class,
            area: count.area,
            regions: Some(count.regions),
            tracks,
            track: None,
            bbox: count.bbox,
            score: count.score,
        }
    }

    fn of_track(zone: &'a str, class: &'a str, track: &TrackCount) -> Self {
        Self {
            rule: Rule::Presence,
            zone: Some(zone),
            line: None,
            class,
            area: track.area,
            regions: None,
            tracks: None,
            track: Some(track.track),
            bbox: track.bbox,
            score: track.score,
        }
    }

    fn of_crossing(rule: &'a LineRule, direction: Direction, class: &'a str, seen: &TrackSeen) -> Self {
        Self {
            rule: Rule::Crossing,
            zone: None,
            line: Some((&rule.name, direction)),
            class,
            area: seen.area,
            regions: None,
            tracks: None,
            track: Some(seen.track),
            bbox: seen.bbox,
            score: seen.score,
        }
    }
}

impl ClassCourse {
    fn tracks_inside(&self) -> u32 {
        let inside = self.tracks.values().filter(|t| t.course.latch.since().is_some());
        u32::try_from(inside.count()).unwrap_or(u32::MAX)
    }

    fn is_there(&self) -> bool {
        self.presence.latch.since().is_some() || self.tracks_inside() > 0
    }

    /// Steps all rules; `tracks` where the network tells the class's objects apart.
    fn step<'a>(
        &mut self,
        zone: &Zone,
        class: &str,
        count: &ClassCount,
        tracks: Option<impl Iterator<Item = &'a TrackCount>>,
        moment: &Moment<'_>,
    ) {
        let delays = Delays {
            start: zone.after,
            end: zone.after,
            dwell: zone.dwell,
        };
        let is_tracked = tracks.is_some();
        let level = match tracks {
            Some(tracks) => {
                let level = self.step_tracks(zone, class, tracks, &delays, moment);
                // What had begun before there were tracks.
                let told = Told::of_class(&zone.name, class, Rule::Presence, count, None);
                moment.step(&mut self.presence, Level::Low, &delays, &told);
                level
            }
            None => {
                let level = match Level::of(count.area, zone.enter, zone.leave) {
                    // So many specks are no region.
                    Level::High if count.regions == 0 => Level::Between,
                    level => level,
                };
                let told = Told::of_class(&zone.name, class, Rule::Presence, count, None);
                moment.step(&mut self.presence, level, &delays, &told);
                level
            }
        };
        let inside = is_tracked.then(|| self.tracks_inside());
        let delays = Delays {
            dwell: None,
            ..delays
        };
        if let Some(most) = zone.at_most {
            let many = inside.unwrap_or(count.regions);
            let told = Told::of_class(&zone.name, class, Rule::AtMost, count, inside);
            moment.step(&mut self.too_many, Level::of_bool(many > most), &delays, &told);
        }
        if let Some(none_for) = zone.none_for {
            let delays = Delays {
                start: none_for,
                ..delays
            };
            let told = Told::of_class(&zone.name, class, Rule::Absence, count, inside);
            moment.step(&mut self.absence, level.inverse(), &delays, &told);
        }
    }

    /// Steps the tracks of a class. Gives where the one stands that is inside most.
    fn step_tracks<'a>(
        &mut self,
        zone: &Zone,
        class: &str,
        tracks: impl Iterator<Item = &'a TrackCount>,
        delays: &Delays,
        moment: &Moment<'_>,
    ) -> Level {
        let mut most = Level::Low;
        for track in tracks {
            let level = Level::of(track.inside, TRACK_ENTERS, TRACK_LEAVES);
            most = match (most, level) {
                (Level::High, _) | (_, Level::High) => Level::High,
                (Level::Low, Level::Low) => Level::Low,
                _ => Level::Between,
            };
            if level != Level::High && !self.tracks.contains_key(&track.track) {
                continue;
            }
            let known = self.tracks.entry(track.track).or_default();
            known.seen = true;
            let told = Told::of_track(&zone.name, class, track);
            moment.step(&mut known.course, level, delays, &told);
        }
        self.tracks.retain(|number, known| {
            if !std::mem::take(&mut known.seen) {
                let gone = TrackCount {
                    track: *number,
                    class: 0,
                    inside: 0.0,
                    area: 0.0,
                    bbox: Rect::default(),
                    score: 0.0,
                };
                let told = Told::of_track(&zone.name, class, &gone);
                moment.step(&mut known.course, Level::Low, delays, &told);
                return known.course.latch.since().is_some();
            }
            true
        });
        most
    }

    /// Ends all that has begun.
    fn end(&mut self, zone: &str, class: &str, moment: &Moment<'_>) {
        let nothing = ClassCount {
            class: 0,
            area: 0.0,
            regions: 0,
            bbox: Rect::default(),
            score: 0.0,
        };
        let at_once = Delays::default();
        let all = [
            (&mut self.presence, Rule::Presence),
            (&mut self.too_many, Rule::AtMost),
            (&mut self.absence, Rule::Absence),
        ];
        for (course, rule) in all {
            if course.latch.since().is_some() {
                let told = Told::of_class(zone, class, rule, &nothing, None);
                moment.step(course, Level::Low, &at_once, &told);
            }
        }
        for (number, known) in &mut self.tracks {
            if known.course.latch.since().is_some() {
                let told = Told {
                    track: Some(*number),
                    regions: None,
                    ..Told::of_class(zone, class, Rule::Presence, &nothing, None)
                };
                moment.step(&mut known.course, Level::Low, &at_once, &told);
            }
        }
    }
}
