// Live video of one camera in an element: by WebRTC, or else by Media Source Extensions, or else as JPEGs.

const BEGIN_WITHIN_MS = 6000;
const STALLED_AFTER_MS = 6000;
const AGAIN_AFTER_MS = 2000;

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

function makeVideo(label) {
  const video = document.createElement("video");
  video.muted = true;
  video.autoplay = true;
  video.playsInline = true;
  video.setAttribute("aria-label", label);
  return video;
}

// Ends when no new picture came for a while, or `ended` does. True if there ever was one.
async function watch(video, ended, signal) {
  let last = -1;
  let moved = performance.now();
  let shown = false;
  let over = false;
  ended.then(() => { over = true; });
  while (!over && !signal.aborted) {
    await Promise.race([sleep(250, signal), ended]);
    const now = performance.now();
    if (video.videoWidth > 0 && video.currentTime !== last) {
      last = video.currentTime;
      moved = now;
      shown = true;
    }
    // A page that nobody looks at may be stopped by the browser.
    if (document.hidden) { moved = now; }
    if (now - moved > (shown ? STALLED_AFTER_MS : BEGIN_WITHIN_MS)) { break; }
  }
  return shown;
}

// WebRTC by WHEP: RFC 9725. The offer goes out without candidates; segd answers with its own.
async function webrtc(camera, place, signal) {
  if (!("RTCPeerConnection" in window)) { return false; }
  const peer = new RTCPeerConnection();
  let session = null;
  try {
    const { receiver } = peer.addTransceiver("video", { direction: "recvonly" });
    if ("jitterBufferTarget" in receiver) { receiver.jitterBufferTarget = 0; }
    await peer.setLocalDescription(await peer.createOffer());
    const answer = await fetch(`/whep/${encodeURIComponent(camera)}`, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: peer.localDescription.sdp,
      signal,
    });
    if (answer.status !== 201) { return false; }
    session = answer.headers.get("Location");
    const video = makeVideo(`Live video of ${camera}`);
    video.srcObject = new MediaStream([receiver.track]);
    const ended = new Promise((resolve) => {
      peer.addEventListener("connectionstatechange", () => {
        if (["failed", "closed"].includes(peer.connectionState)) { resolve(); }
      });
    });
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    place.replaceChildren(video);
    return await watch(video, ended, signal);
  } finally {
    peer.close();
    if (session) { fetch(session, { method: "DELETE", keepalive: true }).catch(() => {}); }
  }
}

// Fragmented MP4 over a WebSocket: first its type as text, then its beginning and a fragment for each picture.
async function mse(camera, place, signal) {
  const Source = window.ManagedMediaSource ?? window.MediaSource;
  if (!Source) { return false; }
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/stream.mse?camera=${encodeURIComponent(camera)}`);
  socket.binaryType = "arraybuffer";
  const source = new Source();
  const video = makeVideo(`Live video of ${camera}`);
  video.disableRemotePlayback = true;
  video.src = URL.createObjectURL(source);
  const waiting = [];
  let buffer = null;
  const ended = new Promise((resolve) => {
    const feed = () => {
      if (!buffer || buffer.updating) { return; }
      const { buffered } = buffer;
      if (buffered.length > 0) {
        const newest = buffered.end(buffered.length - 1);
        // The newest picture is what there is to see.
        if (newest - video.currentTime > 0.25) { video.currentTime = newest - 0.03; }
        if (newest - buffered.start(0) > 10) { buffer.remove(0, newest - 5); return; }
      }
      if (waiting.length > 0) {
        try { buffer.appendBuffer(waiting.shift()); } catch { resolve(); }
      }
    };
    const opened = new Promise((open) => { source.addEventListener("sourceopen", open, { once: true }); });
    socket.addEventListener("message", async ({ data }) => {
      if (typeof data === "string") {
        if (!Source.isTypeSupported(data)) { resolve(); return; }
        await opened;
        try {
          buffer = source.addSourceBuffer(data);
          buffer.addEventListener("updateend", feed);
          buffer.addEventListener("error", resolve);
        } catch { resolve(); }
      } else {
        waiting.push(data);
        // A page that was stopped for a while begins anew rather than late.
        if (waiting.length > 150) { resolve(); }
      }
      feed();
    });
    socket.addEventListener("close", resolve);
    socket.addEventListener("error", resolve);
    video.addEventListener("error", resolve);
  });
  try {
    place.replaceChildren(video);
    video.play().catch(() => {});
    return await watch(video, ended, signal);
  } finally {
    socket.close();
    video.removeAttribute("src");
    video.load();
  }
}

// JPEGs one after the other.
async function jpegs(camera, place, signal) {
  const image = document.createElement("img");
  image.alt = `Live pictures of ${camera}`;
  let failed = false;
  const ended = new Promise((resolve) => {
    image.addEventListener("error", () => { failed = true; resolve(); });
  });
  image.src = `/stream.mjpeg?camera=${encodeURIComponent(camera)}&at=${Date.now()}`;
  const begun = performance.now();
  try {
    while (!signal.aborted && !failed && image.naturalWidth === 0) {
      if (performance.now() - begun > BEGIN_WITHIN_MS) { return false; }
      await Promise.race([sleep(100, signal), ended]);
    }
    if (signal.aborted || failed) { return false; }
    place.replaceChildren(image);
    await Promise.race([ended, new Promise((resolve) => { signal.addEventListener("abort", resolve, { once: true }); })]);
    return true;
  } finally {
    image.removeAttribute("src");
  }
}

const WAYS = [["WebRTC", webrtc], ["MSE", mse], ["JPEG", jpegs]];

// The ways that an address may name: `?way=JPEG` takes that one alone.
function ways() {
  const only = new URLSearchParams(location.search).get("way");
  return WAYS.filter(([name]) => only === null || name === only);
}

// Shows `camera` in `place` until stopped, and calls `told` with the way whenever that changes.
export class Player {
  #stop = new AbortController();

  constructor(camera, place, told) {
    this.#run(camera, place, told);
  }

  stop() { this.#stop.abort(); }

  async #run(camera, place, told) {
    const { signal } = this.#stop;
    const all = ways();
    let next = 0;
    while (!signal.aborted && all.length > 0) {
      const [name, show] = all[next];
      told(`trying ${name}`);
      const seen = new MutationObserver(() => { told(name); });
      seen.observe(place, { childList: true });
      let shown = false;
      try {
        shown = await show(camera, place, signal);
      } catch (error) {
        console.info(`${name}: ${error}`);
      }
      seen.disconnect();
      // What worked is tried again; what did not gives way to the next.
      next = shown ? 0 : (next + 1) % all.length;
      if (shown || next === 0) { await sleep(AGAIN_AFTER_MS, signal); }
    }
  }
}
