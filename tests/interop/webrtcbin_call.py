"""Sends a picture between two webrtcbin elements of GStreamer, whose ICE is libnice, that may use relayed candidates alone.

usage: webrtcbin_call.py HOST PORT udp|tcp|tls USERNAME PASSWORD
Prints how many frames were decoded at the other end and by which candidates; exits non-zero if they do not come.
"""

import socket
import sys
from urllib.parse import quote

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

DEADLINE = 40
FRAMES = 50
# Small enough for one core, and different in every frame.
SENDER = """webrtcbin name=one videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=25/1
    ! vp8enc deadline=1 ! rtpvp8pay ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! one."""


class Call:
    def __init__(self, url, here):
        self.loop = GLib.MainLoop()
        self.frames = 0
        self.types = set()
        self.agents = []
        self.failure = f"{FRAMES} frames did not come within {DEADLINE} s"
        self.sender = Gst.parse_launch(SENDER)
        self.receiver = Gst.Pipeline.new("receiver")
        self.one = self.sender.get_by_name("one")
        self.two = Gst.ElementFactory.make("webrtcbin", "two")
        self.receiver.add(self.two)
        for element, other in ((self.one, self.two), (self.two, self.one)):
            element.set_property("ice-transport-policy", GstWebRTC.WebRTCICETransportPolicy.RELAY)
            element.set_property("turn-server", url)
            # Left to itself libnice takes no loopback interface. The reference is kept: what the element hands out is not counted as one.
            self.agents.append(element.get_property("ice-agent"))
            assert self.agents[-1].emit("add-local-ip-address", here)
            element.connect("on-ice-candidate", self.on_candidate, other)
        self.one.connect("on-negotiation-needed", self.on_negotiation_needed)
        self.two.connect("pad-added", self.on_track)

    def run(self):
        for pipeline in (self.receiver, self.sender):
            pipeline.set_state(Gst.State.PLAYING)
            bus = pipeline.get_bus()
            bus.add_signal_watch()
            bus.connect("message::error", lambda _, message: self.end(str(message.parse_error())))
        GLib.timeout_add_seconds(DEADLINE, self.loop.quit)
        self.loop.run()
        for pipeline in (self.sender, self.receiver):
            pipeline.set_state(Gst.State.NULL)
        print(self.frames, "frames decoded, candidates:", " ".join(sorted(self.types)))
        return self.failure

    def end(self, failure):
        self.failure = failure
        self.loop.quit()

    def on_candidate(self, _, line, candidate, other):
        words = candidate.split()
        self.types.add(words[words.index("typ") + 1])
        other.emit("add-ice-candidate", line, candidate)

    def on_negotiation_needed(self, element):
        self.one.emit("create-offer", None, Gst.Promise.new_with_change_func(self.on_offer))

    def on_offer(self, promise):
        offer = description(promise, "offer")
        self.one.emit("set-local-description", offer, None)
        self.two.emit("set-remote-description", offer, Gst.Promise.new_with_change_func(self.on_offered))

    def on_offered(self, _):
        self.two.emit("create-answer", None, Gst.Promise.new_with_change_func(self.on_answer))

    def on_answer(self, promise):
        answer = description(promise, "answer")
        self.two.emit("set-local-description", answer, None)
        self.one.emit("set-remote-description", answer, None)

    def on_track(self, _, pad):
        decoder = Gst.parse_bin_from_description("rtpvp8depay ! vp8dec ! fakesink name=sink sync=false signal-handoffs=true", True)
        self.receiver.add(decoder)
        decoder.get_by_name("sink").connect("handoff", self.on_frame)
        pad.link(decoder.get_static_pad("sink"))
        decoder.sync_state_with_parent()

    def on_frame(self, *_):
        self.frames += 1
        if self.frames == FRAMES:
            self.end("" if self.types == {"relay"} else "not all candidates are relayed")


def description(promise, kind):
    """A copy: what the reply holds is gone with it."""
    reply = promise.get_reply()
    described = reply.get_value(kind)
    _, sdp = GstSdp.SDPMessage.new_from_text(described.sdp.as_text())
    return GstWebRTC.WebRTCSessionDescription.new(described.type, sdp)


def main(host, port, transport, username, password):
    Gst.init(None)
    scheme, leg = {"udp": ("turn", "udp"), "tcp": ("turn", "tcp"), "tls": ("turns", "tcp")}[transport]
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        here, _ = probe.getsockname()
    failure = Call(f"{scheme}://{quote(username, '')}:{quote(password, '')}@{host}:{port}?transport={leg}", here).run()
    if failure:
        sys.exit(failure)


main(*sys.argv[1:])
