package main

import (
	"bytes"
	"fmt"
	"log"

	// Version 3: Debian installs it without that in the path.
	"github.com/pion/webrtc"
)

func call(r relay) {
	url := map[string]string{
		"udp": "turn:%s?transport=udp", "tcp": "turn:%s?transport=tcp", "tls": "turns:%s?transport=tcp", "dtls": "turns:%s?transport=udp",
	}[r.transport]
	configuration := webrtc.Configuration{
		ICEServers:         []webrtc.ICEServer{{URLs: []string{fmt.Sprintf(url, r.address())}, Username: r.username, Credential: r.password}},
		ICETransportPolicy: webrtc.ICETransportPolicyRelay,
	}
	one, err := webrtc.NewPeerConnection(configuration)
	must(err)
	two, err := webrtc.NewPeerConnection(configuration)
	must(err)
	two.OnDataChannel(func(channel *webrtc.DataChannel) {
		channel.OnMessage(func(message webrtc.DataChannelMessage) { must(channel.Send(message.Data)) })
	})
	channel, err := one.CreateDataChannel("echo", nil)
	must(err)
	opened := make(chan struct{})
	received := make(chan []byte)
	channel.OnOpen(func() { close(opened) })
	channel.OnMessage(func(message webrtc.DataChannelMessage) { received <- message.Data })

	offer, err := one.CreateOffer(nil)
	must(err)
	must(two.SetRemoteDescription(gathered(one, offer)))
	answer, err := two.CreateAnswer(nil)
	must(err)
	must(one.SetRemoteDescription(gathered(two, answer)))

	<-opened
	for _, payload := range payloads() {
		must(channel.Send(payload))
		back := <-received
		if !bytes.Equal(back, payload) {
			log.Fatalf("%d bytes came back instead of %d", len(back), len(payload))
		}
		pair, err := one.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
		must(err)
		if pair.Local.Typ != webrtc.ICECandidateTypeRelay || pair.Remote.Typ != webrtc.ICECandidateTypeRelay {
			log.Fatalf("the path is not relayed: %v", pair)
		}
		fmt.Println(len(back), "bytes came back from", pair.Remote)
	}
	must(one.Close())
	must(two.Close())
}

// gathered applies a description of its own to a connection and returns it with all candidates in it.
func gathered(connection *webrtc.PeerConnection, description webrtc.SessionDescription) webrtc.SessionDescription {
	complete := webrtc.GatheringCompletePromise(connection)
	must(connection.SetLocalDescription(description))
	<-complete
	return *connection.LocalDescription()
}
