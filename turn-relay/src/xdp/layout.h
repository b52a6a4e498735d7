// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What user space tells the program, and reads back; turn-relay/src/sys/xdp.rs has the same layouts.
//
// IPv4 addresses are held in their v4-mapped form. All that is kept in network byte order is said to be a __be type.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_ROUTES 65536

// What arrives: one direction of a channel. `channel` is 0 for a datagram from a peer.
struct arrival {
    __be32 from[4];
    __be32 to[4];
    __be16 from_port;
    __be16 to_port;
    __be16 channel;
    __u16 unused;
};

// What is sent for it.
struct departure {
    __be32 from[4];
    __be32 to[4];
    __be16 from_port;
    __be16 to_port;
    __be16 channel; // 0: towards a peer, without a header of ours
    __u16 flags;
    __u32 slot;             // of the route
    __u32 allocation_meter; // of the allocation
    __u32 user_meter;       // of all allocations of its user
};

#define IPV4 1           // leave as IPv4
#define DONT_FRAGMENT 2  // with the DF bit
#define TO_CLIENT 4      // the direction, and so the lane
#define TO_US 8          // the peer is at an address of this host: another client of this relay, or nothing for the program

// Where the frames of a lane go, as the kernel said a moment ago. Two cores may write it at once, and then a frame goes astray.
struct way {
    __u64 until;
    __u32 port; // its index; 0: not known
    __u16 mtu;
    __u8 to[6];
    __u8 from[6];
    __u8 unused[6];
};

// One direction of a route: what changes while it stands, in two cache lines of its own.
struct lane {
    __u64 expires; // CLOCK_MONOTONIC; written by user space alone
    __u64 packets;
    __u64 bytes;
    __u64 over_allocation; // packets above a rate
    __u64 over_user;
    __u64 next_visit; // when the next packet goes through the kernel
    struct way way;
    __u64 unused[6];
};

struct route {
    struct lane lanes[2]; // to the peer, to the client
};

// Buckets, each the time at which it is full again (relay/pace.rs has the same arithmetic).
struct meter {
    struct {
        __u64 bytes;
        __u64 packets;
    } flows[2];
};

// A rate: nanoseconds per unit, times 65536, and how far ahead of now a bucket may be. 0: no limit.
struct pace {
    __u64 scaled_cost;
    __u64 depth;
};

struct limits {
    struct pace allocation_bytes, allocation_packets, user_bytes, user_packets;
};

// An interface that the program serves, or a VLAN on one, by its index.
struct port {
    __u32 device; // the interface that the frames go through
    __be16 vlan;  // 0: no tag
    __u8 mac[6];
    __u8 ttl;
    __u8 hop_limit;
    __u8 unused[2];
};

// A tagged frame that arrives belongs to the VLAN with this number on that device.
struct tag {
    __u32 device;
    __be16 vlan;
    __u16 unused;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 2 * MAX_ROUTES);
    __type(key, struct arrival);
    __type(value, struct departure);
} routes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, MAX_ROUTES);
    __type(key, __u32);
    __type(value, struct route);
} lanes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 2 * MAX_ROUTES);
    __type(key, __u32);
    __type(value, struct meter);
} meters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct limits);
} limits SEC(".maps");

// By interface index; of what is no port of ours the device is 0. User space says how many there are.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct port);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, struct tag);
    __type(value, __u32);
} tags SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, __u32);
} devices SEC(".maps");
