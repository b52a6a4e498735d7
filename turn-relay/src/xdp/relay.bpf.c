// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The fast path of turn-relay: channel data and what comes back for it, rewritten and sent in the network driver.
//
// It decides nothing that user space has not decided before: a datagram is relayed if user space put its five-tuple
// (and channel number) into `routes`, and the lane beside it has not expired. Whatever is unusual in any way (fragments, IP options,
// no checksum, padding, two VLAN tags, no known neighbour, larger than the link) goes on to user space untouched, which knows
// what to do with it.

#include "layout.h"
#include "datagram.h"

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
    // What two cores take at once is taken once; user space, which counts what was sent, makes up for it.
    *(volatile __u64 *)full_at = next;
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

// How long a way is known: what changes in the kernel's routes and neighbours is seen after that.
#define KNOWN 100000000ULL

// Asks the kernel for the way there. False: there is none that we could take.
static __always_inline int find_way(struct xdp_md *ctx, const struct departure *departure, __u8 traffic_class, __u32 udp_len,
                                    struct way *way)
{
    struct bpf_fib_lookup lookup = {};
    lookup.l4_protocol = IPPROTO_UDP;
    lookup.sport = departure->from_port;
    lookup.dport = departure->to_port;
    // As if it came from this host itself, which it does for the one who receives it: what forwards packets that come from `lo`.
    lookup.ifindex = 1;
    if (departure->flags & IPV4) {
        lookup.family = 2; // AF_INET
        lookup.tot_len = sizeof(struct iphdr) + udp_len;
        lookup.tos = traffic_class & 0x1c;
        lookup.ipv4_src = departure->from[3];
        lookup.ipv4_dst = departure->to[3];
    } else {
        lookup.family = 10; // AF_INET6
        lookup.tot_len = sizeof(struct ipv6hdr) + udp_len;
        lookup.flowinfo = bpf_htonl((__u32)traffic_class << 20);
        __builtin_memcpy(lookup.ipv6_src, departure->from, 16);
        __builtin_memcpy(lookup.ipv6_dst, departure->to, 16);
    }
    if (bpf_fib_lookup(ctx, &lookup, sizeof(lookup), 0) != BPF_FIB_LKUP_RET_SUCCESS)
        return 0;
    way->port = lookup.ifindex;
    way->mtu = lookup.mtu_result;
    __builtin_memcpy(way->to, lookup.dmac, ETH_ALEN);
    __builtin_memcpy(way->from, lookup.smac, ETH_ALEN);
    return 1;
}

// The way there, from memory where that is young, and the port that it leads to.
static __always_inline struct port *way_out(struct xdp_md *ctx, const struct departure *departure, struct lane *lane, __u64 now,
                                            __u8 traffic_class, __u32 udp_len)
{
    struct way *way = &lane->way;
    __u32 len = udp_len + (departure->flags & IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
    if (now >= way->until || len > way->mtu) {
        if (!find_way(ctx, departure, traffic_class, udp_len, way))
            return 0;
        way->until = now + KNOWN;
    }
    __u32 index = way->port;
    struct port *port = bpf_map_lookup_elem(&ports, &index);
    return port && port->device ? port : 0;
}

// Writes the headers. The room for them was made.
static __always_inline int write_headers(struct xdp_md *ctx, const struct datagram *datagram, const struct departure *departure,
                                         const struct port *port, const struct way *way, __u32 udp_len)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *ethernet = data;
    __be16 protocol = departure->flags & IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
    if ((void *)(ethernet + 1) > end)
        return 0;
    __builtin_memcpy(ethernet->h_dest, way->to, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, way->from, ETH_ALEN);
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

// Counts a packet in a lane, if its meters have room for it.
static __always_inline int pay(const struct departure *departure, struct lane *lane, __u64 now, __u32 len)
{
    if (!take_from_meters(departure, lane, now, len))
        return 0;
    count(lane, len);
    return 1;
}

// What becomes of a datagram that leaves for a relayed address of ours: it arrives there.
static __always_inline struct departure *arrive(const struct departure *departure)
{
    struct arrival arrival = {.from_port = departure->from_port, .to_port = departure->to_port};
    __builtin_memcpy(arrival.from, departure->from, 16);
    __builtin_memcpy(arrival.to, departure->to, 16);
    return bpf_map_lookup_elem(&routes, &arrival);
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
    // As the last tick had it: cheaper, and young enough for all that it is used for.
    __u64 now = bpf_ktime_get_coarse_ns();
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
    // From client to client: through the allocations of both.
    struct departure *first = 0;
    struct lane *first_lane = lane;
    if (departure->flags & TO_US) {
        first = departure;
        departure = arrive(first);
        if (!departure)
            return XDP_PASS;
        lane = lane_of(departure, now);
        if (!lane)
            return XDP_PASS;
    }
    __u32 udp_len = sizeof(struct udphdr) + len + (departure->channel ? sizeof(struct channel_header) : 0);
    struct port *port = way_out(ctx, departure, lane, now, datagram.traffic_class, udp_len);
    if (!port)
        return XDP_PASS;
    if ((first && !pay(first, first_lane, now, len)) || !pay(departure, lane, now, len))
        return XDP_DROP;
    __u32 needed = sizeof(struct ethhdr) + (port->vlan ? sizeof(struct vlan_header) : 0) +
                   (departure->flags & IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + udp_len - len;
    if (bpf_xdp_adjust_head(ctx, (int)headers - (int)needed) ||
        !write_headers(ctx, &datagram, departure, port, &lane->way, udp_len))
        return XDP_DROP;
    if (port->device == ctx->ingress_ifindex)
        return XDP_TX;
    return bpf_redirect_map(&devices, port->device, XDP_DROP);
}

// The route lookup is for programs under a licence that goes together with the kernel's, as ours, MIT, does.
char licence[] SEC("license") = "Dual MIT/GPL";
