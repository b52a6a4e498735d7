// pion, an independent TURN client and WebRTC stack in Go, against a TURN server.
//
// usage: pion echo|call HOST PORT udp|tcp|tls|dtls USERNAME PASSWORD REALM
//
// echo allocates with pion/turn and sends datagrams through the relay to an echo server of its own. call connects two peer connections of pion/webrtc
// that may use relayed candidates alone, and has a data channel echo. The server's certificate is verified; Go reads the authorities from the file that the
// environment calls SSL_CERT_FILE. Prints what came back; exits non-zero if anything is missing or different.
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/pion/dtls/v2"
	"github.com/pion/turn/v2"
)

const deadline = 30 * time.Second

type relay struct {
	host, port, transport, username, password, realm string
}

func (r relay) address() string { return net.JoinHostPort(r.host, r.port) }

func main() {
	log.SetFlags(0)
	if len(os.Args) != 8 {
		log.Fatal("usage: pion echo|call HOST PORT udp|tcp|tls|dtls USERNAME PASSWORD REALM")
	}
	a := os.Args
	r := relay{a[2], a[3], a[4], a[5], a[6], a[7]}
	time.AfterFunc(deadline, func() { log.Fatalf("not done within %v", deadline) })
	if a[1] == "call" {
		call(r)
	} else {
		echo(r)
	}
}

// payloads need all kinds of padding of ChannelData over a stream; one fills most of an Ethernet frame. None is shorter than five bytes: over a stream this
// library does not look at a frame before it has nine.
func payloads() [][]byte {
	return [][]byte{[]byte("five5"), []byte("sixsix"), []byte("seven77"), bytes.Repeat([]byte("0123456789abcdef"), 80)}
}

func echo(r relay) {
	peer, err := net.ListenPacket("udp4", net.JoinHostPort(r.here(), "0"))
	must(err)
	go func() {
		buffer := make([]byte, 2000)
		for {
			n, from, err := peer.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, err = peer.WriteTo(buffer[:n], from)
			must(err)
		}
	}()

	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: r.address(), TURNServerAddr: r.address(), Conn: r.connect(), Username: r.username, Password: r.password, Realm: r.realm,
	})
	must(err)
	must(client.Listen())
	mapped, err := client.SendBindingRequest()
	must(err)
	allocation, err := client.Allocate()
	must(err)
	fmt.Println("mapped", mapped, "relayed", allocation.LocalAddr())
	must(client.CreatePermission(peer.LocalAddr()))
	buffer := make([]byte, 2000)
	// The library begins with Send indications and changes to a channel once it is bound.
	for round := 0; round < 3; round++ {
		for _, payload := range payloads() {
			_, err = allocation.WriteTo(payload, peer.LocalAddr())
			must(err)
			n, from, err := allocation.ReadFrom(buffer)
			must(err)
			if !bytes.Equal(buffer[:n], payload) || from.String() != peer.LocalAddr().String() {
				log.Fatalf("%d bytes came back from %v instead of %d", n, from, len(payload))
			}
			fmt.Println(n, "bytes came back from", from)
		}
	}
	must(allocation.Close())
	client.Close()
}

// here is the address from which the server is reached.
func (r relay) here() string {
	conn, err := net.Dial("udp", r.address())
	must(err)
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

// connect opens the leg to the server. Certificates are verified.
func (r relay) connect() net.PacketConn {
	switch r.transport {
	case "udp":
		conn, err := net.ListenPacket("udp", net.JoinHostPort(r.here(), "0"))
		must(err)
		return conn
	case "tcp":
		conn, err := net.Dial("tcp", r.address())
		must(err)
		return turn.NewSTUNConn(conn)
	case "tls":
		conn, err := tls.Dial("tcp", r.address(), &tls.Config{NextProtos: []string{"stun.turn"}})
		must(err)
		fmt.Printf("TLS %x, ALPN %q\n", conn.ConnectionState().Version, conn.ConnectionState().NegotiatedProtocol)
		return turn.NewSTUNConn(conn)
	case "dtls":
		address, err := net.ResolveUDPAddr("udp", r.address())
		must(err)
		conn, err := dtls.Dial("udp", address, &dtls.Config{ServerName: r.host})
		must(err)
		return datagrams{conn}
	}
	log.Fatalf("no transport is called %q", r.transport)
	return nil
}

// datagrams is a connection that keeps the borders of messages, as the library wants to see it.
type datagrams struct{ net.Conn }

func (d datagrams) ReadFrom(buffer []byte) (int, net.Addr, error) {
	n, err := d.Read(buffer)
	return n, d.RemoteAddr(), err
}

func (d datagrams) WriteTo(message []byte, _ net.Addr) (int, error) { return d.Write(message) }

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
