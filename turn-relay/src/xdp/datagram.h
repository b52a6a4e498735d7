// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes a frame apart, and refuses what is unusual.

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
    if (!port || !port->device || !is_same(port->mac, ethernet->h_dest))
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
