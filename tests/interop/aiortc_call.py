"""Connects two peer connections of aiortc, an independent WebRTC stack, that may use relayed candidates alone, and has a data channel echo.

usage: aiortc_call.py HOST PORT udp|tcp|tls USERNAME PASSWORD
The server's certificate is verified; OpenSSL reads the authorities from the file that the environment calls SSL_CERT_FILE.
Prints what came back; exits non-zero if anything is missing or different.
"""

import asyncio
import sys

from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection

DEADLINE = 30
URLS = {"udp": "turn:{}:{}?transport=udp", "tcp": "turn:{}:{}?transport=tcp", "tls": "turns:{}:{}?transport=tcp"}
PAYLOADS = [b"a", b"four", b"seven77", bytes(range(256)) * 40]


async def main(host, port, transport, username, password):
    server = RTCIceServer(URLS[transport].format(host, port), username=username, credential=password)
    configuration = RTCConfiguration([server], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    one, two = RTCPeerConnection(configuration), RTCPeerConnection(configuration)

    @two.on("datachannel")
    def on_datachannel(theirs):
        theirs.on("message", theirs.send)

    channel = one.createDataChannel("echo")
    opened, received = asyncio.Event(), asyncio.Queue()
    channel.on("open", opened.set)
    channel.on("message", received.put_nowait)

    await one.setLocalDescription(await one.createOffer())
    await two.setRemoteDescription(one.localDescription)
    await two.setLocalDescription(await two.createAnswer())
    await one.setRemoteDescription(two.localDescription)
    for description in (one.localDescription, two.localDescription):
        types = {line.split()[7] for line in description.sdp.splitlines() if line.startswith("a=candidate:")}
        assert types == {"relay"}, types

    await opened.wait()
    for payload in PAYLOADS:
        channel.send(payload)
        data = await received.get()
        assert data == payload, len(data)
        print(len(data), "bytes came back")
    await one.close()
    await two.close()


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), DEADLINE))
