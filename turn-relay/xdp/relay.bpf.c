// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The fast path of turn-relay: channel data and what comes back for it, rewritten and sent in the network driver.
//
// It decides nothing that user space has not decided before: a datagram is relayed if user space put its five-tuple
// (and channel number) into `routes`, and the lane beside it has not expired. Whatever is unusual in any way (fragments, IP options,
// no checksum, padding, two VLAN tags, no known neighbour, larger than the link) goes on to user space untouched, which knows
// what to do with it.
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

// ---- what user space writes; turn-relay/src/sys/xdp.rs has the same layouts ------------------------------------------------------

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
#define ONLY_TO_US 8     // the peer is a relayed address of this relay, and may be reached only as that

// One direction of a route: what changes while it stands. A cache line of its own.
struct lane {
    __u64 expires; // CLOCK_MONOTONIC; written by user space alone
    __u64 packets;
    __u64 bytes;
    __u64 over_allocation; // packets above a rate
    __u64 over_user;
    __u64 next_visit; // when the next packet goes through the kernel
    __u64 unused[2];
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

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
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

// ---- reading ---------------------------------------------------------------------------------------------------------------

struct vlan_header {
    __be16 tci;
    __be16 protocol;
};

struct channel_header {
    __be16 number;
    __be16 len;
};

// A datagram, taken apart.
struct datagram {
    struct arrival arrival;
    __u32 headers;        // bytes in front of the UDP payload
    __u32 len;            // bytes of the UDP payload
    __be32 channel_words; // its first four bytes, where it is channel data
    __u16 checksum;
    __be16 udp_len;
    __u8 traffic_class;
};

static __always_inline void map_v4(__be32 words[4], __be32 address)
{
    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = address;
}

static __always_inline __u16 fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

// The word ffff of a v4-mapped address is a zero in the arithmetic of this sum.
static __always_inline __u64 sum_addresses(const __be32 from[4], const __be32 to[4])
{
    return (__u64)from[0] + from[1] + from[2] + from[3] + to[0] + to[1] + to[2] + to[3];
}

static __always_inline __u64 sum_ipv4_header(const struct iphdr *ip)
{
    const __u32 *words = (const void *)ip;
    return (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

static __always_inline int is_same(const __u8 one[ETH_ALEN], const __u8 other[ETH_ALEN])
{
    const __u16 *a = (const void *)one, *b = (const void *)other;
    return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

// Takes a frame apart. False: it is nothing for us.
static __always_inline int take_apart(struct xdp_md *ctx, struct datagram *datagram)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *ethernet = data;
    if ((void *)(ethernet + 1) > end)
        return 0;
    __u32 index = ctx->ingress_ifindex, headers = sizeof(*ethernet);
    __be16 protocol = ethernet->h_proto;
    void *next = ethernet + 1;
    if (protocol == bpf_htons(ETH_P_8021Q)) {
        struct vlan_header *vlan = next;
        if ((void *)(vlan + 1) > end)
            return 0;
        struct tag tag = {.device = index, .vlan = vlan->tci & bpf_htons(0x0fff)};
        __u32 *owner = bpf_map_lookup_elem(&tags, &tag);
        if (!owner)
            return 0;
        index = *owner;
        protocol = vlan->protocol;
        headers += sizeof(*vlan);
        next = vlan + 1;
    }
    struct udphdr *udp;
    __u32 packet_len;
    if (protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = next;
        if ((void *)(ip + 1) > end)
            return 0;
        // A header of 20 bytes, no fragment, UDP, and a good checksum.
        if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff) || ip->protocol != IPPROTO_UDP ||
            fold(sum_ipv4_header(ip)) != 0xffff)
            return 0;
        packet_len = bpf_ntohs(ip->tot_len);
        map_v4(datagram->arrival.from, ip->saddr);
        map_v4(datagram->arrival.to, ip->daddr);
        datagram->traffic_class = ip->tos;
        headers += sizeof(*ip);
        packet_len -= sizeof(*ip);
        udp = (void *)(ip + 1);
    } else if (protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = next;
        if ((void *)(ip + 1) > end)
            return 0;
        if (ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
            return 0;
        packet_len = bpf_ntohs(ip->payload_len);
        __builtin_memcpy(datagram->arrival.from, &ip->saddr, 16);
        __builtin_memcpy(datagram->arrival.to, &ip->daddr, 16);
        datagram->traffic_class = bpf_ntohl(*(__be32 *)ip) >> 20 & 0xff;
        headers += sizeof(*ip);
        udp = (void *)(ip + 1);
    } else {
        return 0;
    }
    if ((void *)(udp + 1) > end)
        return 0;
    datagram->headers = headers + sizeof(*udp);
    datagram->udp_len = udp->len;
    datagram->checksum = udp->check;
    // The lengths agree, the datagram is all there, and behind it is nothing but what Ethernet pads a small frame with.
    __u32 udp_len = bpf_ntohs(udp->len), frame = end - data;
    if (udp_len != packet_len || udp_len < sizeof(*udp) || headers + udp_len > frame ||
        (headers + udp_len < frame && frame > ETH_ZLEN + sizeof(struct vlan_header)) || udp->check == 0)
        return 0;
    datagram->len = udp_len - sizeof(*udp);
    datagram->arrival.from_port = udp->source;
    datagram->arrival.to_port = udp->dest;
    datagram->arrival.channel = 0;
    datagram->arrival.unused = 0;
    datagram->channel_words = 0;
    // Frames that a switch floods are not for us.
    struct port *port = bpf_map_lookup_elem(&ports, &index);
    if (!port || !is_same(port->mac, ethernet->h_dest))
        return 0;
    struct channel_header *channel = (void *)(udp + 1);
    // RFC 8656 section 12: 0x4000 to 0x4FFF; up to 0x7FFF by RFC 5766. Padding behind the data is left to user space.
    if ((void *)(channel + 1) <= end && (channel->number & bpf_htons(0xc000)) == bpf_htons(0x4000) &&
        bpf_ntohs(channel->len) + sizeof(*channel) == datagram->len) {
        datagram->arrival.channel = channel->number;
        datagram->channel_words = *(__be32 *)channel;
    }
    return 1;
}

// A sender on this very host leaves the checksum to hardware that a virtual link does not have: what is there is that of the
// pseudo-header alone, and nothing can be derived from it.
static __always_inline int is_unfinished(const struct datagram *datagram)
{
    __u64 sum = sum_addresses(datagram->arrival.from, datagram->arrival.to) + bpf_htons(IPPROTO_UDP) + datagram->udp_len;
    return fold(sum) == datagram->checksum;
}

// ---- rates -----------------------------------------------------------------------------------------------------------------

// Takes units from a bucket. False: it has not got them.
static __always_inline int take(__u64 *full_at, const struct pace *pace, __u64 now, __u64 units)
{
    if (!pace->depth)
        return 1;
    __u64 seen = *(volatile __u64 *)full_at;
    __u64 next = (seen > now ? seen : now) + (units * pace->scaled_cost >> 16);
    if (next - now > pace->depth)
        return 0;
    // Who loses against another core takes nothing; user space, which counts what was sent, makes up for it.
    __sync_val_compare_and_swap(full_at, seen, next);
    return 1;
}

// False: the packet is above a rate, and counted as that.
static __always_inline int take_from_meters(const struct departure *departure, struct lane *lane, __u64 now, __u32 len)
{
    __u32 zero = 0, allocation_index = departure->allocation_meter, user_index = departure->user_meter;
    struct limits *limit = bpf_map_lookup_elem(&limits, &zero);
    struct meter *allocation = bpf_map_lookup_elem(&meters, &allocation_index);
    struct meter *user = bpf_map_lookup_elem(&meters, &user_index);
    if (!limit || !allocation || !user)
        return 0;
    int direction = departure->flags & TO_CLIENT ? 1 : 0;
    if (!take(&allocation->flows[direction].bytes, &limit->allocation_bytes, now, len) ||
        !take(&allocation->flows[direction].packets, &limit->allocation_packets, now, 1)) {
        __sync_fetch_and_add(&lane->over_allocation, 1);
        return 0;
    }
    if (!take(&user->flows[direction].bytes, &limit->user_bytes, now, len) ||
        !take(&user->flows[direction].packets, &limit->user_packets, now, 1)) {
        __sync_fetch_and_add(&lane->over_user, 1);
        return 0;
    }
    return 1;
}

// ---- writing ---------------------------------------------------------------------------------------------------------------

// The UDP checksum, corrected for every word that is different: a payload that was damaged on its way stays so.
static __always_inline __u16 checksum(const struct datagram *datagram, const struct departure *departure, __be16 udp_len,
                                      __be32 channel_words)
{
    const struct arrival *arrival = &datagram->arrival;
    __u64 gone = sum_addresses(arrival->from, arrival->to) + arrival->from_port + arrival->to_port +
                 2 * (__u64)datagram->udp_len + datagram->channel_words;
    __u64 come = sum_addresses(departure->from, departure->to) + departure->from_port + departure->to_port +
                 2 * (__u64)udp_len + channel_words;
    __u16 sum = ~fold((__u16)~datagram->checksum + come + (__u16)~fold(gone));
    return sum ? sum : 0xffff;
}

// Finds the way there. False: there is none that we could take.
static __always_inline struct port *find_way(struct xdp_md *ctx, const struct departure *departure, __u8 traffic_class,
                                             __u32 udp_len, struct bpf_fib_lookup *way)
{
    __builtin_memset(way, 0, sizeof(*way));
    way->l4_protocol = IPPROTO_UDP;
    way->sport = departure->from_port;
    way->dport = departure->to_port;
    // As if it came from this host itself, which it does for the one who receives it: what forwards packets that come from `lo`.
    way->ifindex = 1;
    if (departure->flags & IPV4) {
        way->family = 2; // AF_INET
        way->tot_len = sizeof(struct iphdr) + udp_len;
        way->tos = traffic_class & 0x1c;
        way->ipv4_src = departure->from[3];
        way->ipv4_dst = departure->to[3];
    } else {
        way->family = 10; // AF_INET6
        way->tot_len = sizeof(struct ipv6hdr) + udp_len;
        way->flowinfo = bpf_htonl((__u32)traffic_class << 20);
        __builtin_memcpy(way->ipv6_src, departure->from, 16);
        __builtin_memcpy(way->ipv6_dst, departure->to, 16);
    }
    if (bpf_fib_lookup(ctx, way, sizeof(*way), 0) != BPF_FIB_LKUP_RET_SUCCESS)
        return 0;
    __u32 index = way->ifindex;
    return bpf_map_lookup_elem(&ports, &index);
}

// Writes the headers. The room for them was made.
static __always_inline int write_headers(struct xdp_md *ctx, const struct datagram *datagram, const struct departure *departure,
                                         const struct port *port, const struct bpf_fib_lookup *way, __u32 udp_len)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *ethernet = data;
    __be16 protocol = departure->flags & IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
    if ((void *)(ethernet + 1) > end)
        return 0;
    __builtin_memcpy(ethernet->h_dest, way->dmac, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, way->smac, ETH_ALEN);
    ethernet->h_proto = port->vlan ? bpf_htons(ETH_P_8021Q) : protocol;
    void *next = ethernet + 1;
    if (port->vlan) {
        struct vlan_header *vlan = next;
        if ((void *)(vlan + 1) > end)
            return 0;
        vlan->tci = port->vlan;
        vlan->protocol = protocol;
        next = vlan + 1;
    }
    if (departure->flags & IPV4) {
        struct iphdr *ip = next;
        if ((void *)(ip + 1) > end)
            return 0;
        *(__u8 *)ip = 0x45;
        ip->tos = datagram->traffic_class;
        ip->tot_len = bpf_htons(sizeof(*ip) + udp_len);
        // RFC 6864: what cannot become a fragment needs no identification.
        ip->id = departure->flags & DONT_FRAGMENT ? 0 : (__be16)bpf_get_prandom_u32();
        ip->frag_off = departure->flags & DONT_FRAGMENT ? bpf_htons(0x4000) : 0;
        ip->ttl = port->ttl;
        ip->protocol = IPPROTO_UDP;
        ip->check = 0;
        ip->saddr = departure->from[3];
        ip->daddr = departure->to[3];
        ip->check = ~fold(sum_ipv4_header(ip));
        next = ip + 1;
    } else {
        struct ipv6hdr *ip = next;
        if ((void *)(ip + 1) > end)
            return 0;
        *(__be32 *)ip = bpf_htonl(6u << 28 | (__u32)datagram->traffic_class << 20);
        ip->payload_len = bpf_htons(udp_len);
        ip->nexthdr = IPPROTO_UDP;
        ip->hop_limit = port->hop_limit;
        __builtin_memcpy(&ip->saddr, departure->from, 16);
        __builtin_memcpy(&ip->daddr, departure->to, 16);
        next = ip + 1;
    }
    struct udphdr *udp = next;
    if ((void *)(udp + 1) > end)
        return 0;
    __be32 channel_words = 0;
    if (departure->channel) {
        struct channel_header *channel = (void *)(udp + 1);
        if ((void *)(channel + 1) > end)
            return 0;
        channel->number = departure->channel;
        channel->len = bpf_htons(udp_len - sizeof(*udp) - sizeof(*channel));
        channel_words = *(__be32 *)channel;
    }
    udp->source = departure->from_port;
    udp->dest = departure->to_port;
    udp->len = bpf_htons(udp_len);
    udp->check = checksum(datagram, departure, udp->len, channel_words);
    return 1;
}

// ---- the program -----------------------------------------------------------------------------------------------------------

// The kernel looks after neighbours that packets go to through itself: one packet in so many nanoseconds does, also the first.
#define VISIT 5000000000ULL

static __always_inline struct lane *lane_of(const struct departure *departure, __u64 now)
{
    __u32 slot = departure->slot;
    struct route *route = bpf_map_lookup_elem(&lanes, &slot);
    if (!route)
        return 0;
    struct lane *lane = departure->flags & TO_CLIENT ? &route->lanes[1] : &route->lanes[0];
    return *(volatile __u64 *)&lane->expires > now ? lane : 0;
}

static __always_inline void count(struct lane *lane, __u32 len)
{
    __sync_fetch_and_add(&lane->packets, 1);
    __sync_fetch_and_add(&lane->bytes, len);
}

SEC("xdp")
int turn_relay(struct xdp_md *ctx)
{
    struct datagram datagram;
    if (!take_apart(ctx, &datagram))
        return XDP_PASS;
    struct departure *departure = bpf_map_lookup_elem(&routes, &datagram.arrival);
    if (!departure && datagram.arrival.channel) {
        // Not a client's channel data; a peer may send what looks like some.
        datagram.arrival.channel = 0;
        datagram.channel_words = 0;
        departure = bpf_map_lookup_elem(&routes, &datagram.arrival);
    }
    if (!departure)
        return XDP_PASS;
    __u64 now = bpf_ktime_get_ns();
    struct lane *lane = lane_of(departure, now);
    if (!lane || is_unfinished(&datagram))
        return XDP_PASS;
    __u32 headers = datagram.headers, len = datagram.len;
    if (datagram.arrival.channel) {
        headers += sizeof(struct channel_header);
        len -= sizeof(struct channel_header);
    }
    if (now >= lane->next_visit) {
        lane->next_visit = now + VISIT;
        return XDP_PASS;
    }
    if (departure->flags & ONLY_TO_US)
        return XDP_PASS;
    __u32 udp_len = sizeof(struct udphdr) + len + (departure->channel ? sizeof(struct channel_header) : 0);
    struct bpf_fib_lookup way;
    struct port *port = find_way(ctx, departure, datagram.traffic_class, udp_len, &way);
    if (!port)
        return XDP_PASS;
    if (!take_from_meters(departure, lane, now, len))
        return XDP_DROP;
    __u32 needed = sizeof(struct ethhdr) + (port->vlan ? sizeof(struct vlan_header) : 0) +
                   (departure->flags & IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + udp_len - len;
    if (bpf_xdp_adjust_head(ctx, (int)headers - (int)needed))
        return XDP_PASS;
    if (!write_headers(ctx, &datagram, departure, port, &way, udp_len))
        return XDP_DROP;
    count(lane, len);
    if (port->device == ctx->ingress_ifindex)
        return XDP_TX;
    return bpf_redirect_map(&devices, port->device, XDP_DROP);
}

// For the far end of a virtual link, which takes what the driver sends only if it has a program itself.
SEC("xdp")
int pass(struct xdp_md *ctx)
{
    return XDP_PASS;
}

// The route lookup is for programs under a licence that goes together with the kernel's, as ours, MIT, does.
char licence[] SEC("license") = "Dual MIT/GPL";
