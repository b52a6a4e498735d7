"""Allocates on a TURN server with aioice, an independent client, and sends datagrams through the relay to an echo server of its own.

usage: aioice_echo.py HOST PORT udp|tcp|tls USERNAME PASSWORD
The server's certificate is verified; OpenSSL reads the authorities from the file that the environment calls SSL_CERT_FILE.
Prints what came back; exits non-zero if anything is missing or different.
"""

import asyncio
import socket
import sys

from aioice.turn import create_turn_endpoint

DEADLINE = 20
# On either side of the padding of ChannelData over a stream, and one that fills most of an Ethernet frame.
PAYLOADS = [b"a", b"four", b"seven77", bytes(range(256)) * 5]


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Receiver(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()

    def datagram_received(self, data, address):
        self.received.put_nowait((data, address))


async def main(host, port, transport, username, password):
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        here, _ = probe.getsockname()
    echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=(here, 0))
    echo_address = echo.get_extra_info("sockname")
    turn, receiver = await create_turn_endpoint(
        Receiver,
        server_addr=(host, int(port)),
        username=username,
        password=password,
        ssl=transport == "tls",
        transport="udp" if transport == "udp" else "tcp",
    )
    relayed = turn.get_extra_info("sockname")
    print("mapped", turn.get_extra_info("related_address"), "relayed", relayed)
    for payload in PAYLOADS:
        turn.sendto(payload, echo_address)
        data, source = await receiver.received.get()
        assert (data, source) == (payload, echo_address), (len(data), source)
        print(len(data), "bytes came back from", source)
    turn.close()
    echo.close()


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), DEADLINE))
