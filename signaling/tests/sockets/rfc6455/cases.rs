//! Sections 1 to 5, 7, 9 and 10. Each case is written from what it is about.

use signaling_protocol::PeerId;

use super::raw::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, frame};
use super::{BINARY_IS_NONE, Case, NOT_JSON, Outcome, SIZE, UNDEFINED, utf8};

/// What the last signal says and the last ping carries.
pub(super) const PROBE: &[u8] = b"does it stand?";

/// Bytes of the largest message that is a frame.
const LIMIT: usize = 65_536;
const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

pub(super) fn all() -> Vec<Case> {
    [sizes(), pings(), reserved_bits(), reserved_opcodes(), fragments(), utf8::cases(), closes(), large()]
        .into_iter()
        .flatten()
        .collect()
}

impl Case {
    pub(super) fn new(section: &str, number: usize) -> Self {
        Self {
            number: format!("{section}.{number}"),
            bytes: Vec::new(),
            chop: 0,
            probed: true,
            expected: Outcome::default(),
            exception: None,
        }
    }

    /// A signal as the `seq`th sequenced frame whose description is the text, padded with asterisks to the size.
    pub(super) fn signal(&self, seq: usize, text: &[u8], size: usize) -> Vec<u8> {
        let room = self.number.parse().expect("a room");
        let to = PeerId::derive(&room, &crate::secret(2).parse().expect("a secret"));
        let head =
            format!(r#"{{"type":"signal","seq":{seq},"ack":0,"to":"{to}","negotiation":"n","description":""#);
        let padding = size.saturating_sub(head.len() + text.len() + 2);
        [head.as_bytes(), text, "*".repeat(padding).as_bytes(), b"\"}"].concat()
    }

    pub(super) fn frame(mut self, head: u8, payload: &[u8]) -> Self {
        self.bytes.extend(frame(head, payload));
        self
    }

    /// A message in WebSocket frames of at most so many octets.
    pub(super) fn fragments(mut self, opcode: u8, message: &[u8], size: usize) -> Self {
        let count = message.chunks(size).count();
        for (n, piece) in message.chunks(size).enumerate() {
            let opcode = if n == 0 { opcode } else { CONTINUATION };
            let fin = if n + 1 == count { FIN } else { 0 };
            self.bytes.extend(frame(fin | opcode, piece));
        }
        self
    }

    /// A text message that arrives.
    pub(super) fn text(mut self, text: &str) -> Self {
        let message = self.signal(self.expected.arrived.len() + 1, text.as_bytes(), 0);
        self = self.frame(FIN | TEXT, &message);
        self.arrives(text)
    }

    pub(super) fn arrives(mut self, text: &str) -> Self {
        self.expected.arrived.push(text.to_owned());
        self
    }

    fn pong(mut self, payload: &[u8]) -> Self {
        self.expected.pongs.push(payload.to_vec());
        self
    }

    pub(super) const fn closes(mut self, code: u16) -> Self {
        self.expected.closed = Some(code);
        self
    }

    pub(super) const fn chop(mut self, octets: usize) -> Self {
        self.chop = octets;
        self
    }

    pub(super) const fn exception(mut self, why: &'static str) -> Self {
        self.exception = Some(why);
        self
    }

    /// What tells whether the connection stands.
    pub(super) fn probe(&self) -> Vec<u8> {
        let signal = self.signal(self.expected.arrived.len() + 1, PROBE, 0);
        [frame(FIN | TEXT, &signal), frame(FIN | PING, PROBE)].concat()
    }
}

fn sizes() -> Vec<Case> {
    let mut cases = vec![Case::new("1.1", 1).frame(FIN | TEXT, b"").closes(4200).exception(NOT_JSON)];
    let sizes = [125, 126, 127, 128, 65_535, 65_536, 65_536];
    for (n, size) in sizes.into_iter().enumerate() {
        let case = Case::new("1.1", n + 2).chop(if n == 6 { 997 } else { 0 });
        let message = case.signal(1, b"", size);
        assert_eq!(message.len(), size);
        cases.push(case.frame(FIN | TEXT, &message).arrives(""));
    }
    for (n, size) in [0].into_iter().chain(sizes).enumerate() {
        let case = Case::new("1.2", n + 1).chop(if n == 7 { 997 } else { 0 });
        cases.push(case.frame(FIN | BINARY, &vec![0xfe; size]).closes(4200).exception(BINARY_IS_NONE));
    }
    cases
}

fn pings() -> Vec<Case> {
    let longest = [0xfe; 125];
    let octets = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let ping = |number, payload: &[u8]| Case::new("2", number).frame(FIN | PING, payload).pong(payload);
    let ten = |number| {
        (0..10).map(|n| format!("payload-{n}")).fold(Case::new("2", number), |case, payload| {
            case.frame(FIN | PING, payload.as_bytes()).pong(payload.as_bytes())
        })
    };
    let unsolicited = |number, payload: &[u8]| Case::new("2", number).frame(FIN | PONG, payload);
    vec![
        ping(1, b""),
        ping(2, b"Hello, world!"),
        ping(3, &octets),
        ping(4, &longest),
        Case::new("2", 5).frame(FIN | PING, &[0xfe; 126]).closes(1002),
        ping(6, &longest).chop(1),
        unsolicited(7, b""),
        unsolicited(8, b"unsolicited"),
        unsolicited(9, b"unsolicited").frame(FIN | PING, b"ping").pong(b"ping"),
        ten(10),
        ten(11).chop(1),
    ]
}

fn reserved_bits() -> Vec<Case> {
    let bits = |bits: u8, opcode| FIN | (bits << 4) | opcode;
    let case = |number| Case::new("3", number);
    // A text before it arrives, a ping behind it is not answered.
    let between = |number, reserved: u8| {
        let message = case(number).signal(2, b"no", 0);
        case(number).text("yes").frame(bits(reserved, TEXT), &message).frame(FIN | PING, b"late").closes(1002)
    };
    let message = case(1).signal(1, b"no", 0);
    vec![
        case(1).frame(bits(1, TEXT), &message).closes(1002),
        between(2, 2),
        between(3, 3).chop(64),
        between(4, 4).chop(1),
        case(5).frame(bits(5, BINARY), &[0, 0xff, 0xfe]).closes(1002),
        case(6).frame(bits(6, PING), b"no").closes(1002),
        case(7).frame(bits(7, CLOSE), b"").closes(1002),
    ]
}

fn reserved_opcodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (section, first) in [("4.1", 0x3), ("4.2", 0xb)] {
        for n in 0..5_u8 {
            let payload: &[u8] = if n == 0 || n == 2 { b"" } else { b"reserved opcode payload" };
            let mut case = Case::new(section, usize::from(n) + 1);
            if n >= 2 {
                case = case.text("before");
            }
            let case = case.frame(FIN | (first + n), payload).frame(FIN | PING, b"late").closes(1002);
            cases.push(case.chop(usize::from(n == 4)));
        }
    }
    cases
}

fn fragments() -> Vec<Case> {
    let case = |number| Case::new("5", number);
    // At once, in writes that no frame's end is the end of, and octet by octet.
    let chops = [0, 7, 1];
    let halves = |number: usize| {
        let message = case(number).signal(1, b"fragment1fragment2", 0);
        (message[..60].to_vec(), message[60..].to_vec())
    };
    let mut cases = Vec::new();
    for (number, opcode) in [(1, PING), (2, PONG)] {
        cases.push(
            case(number).frame(opcode, b"fragment1").frame(FIN | CONTINUATION, b"fragment2").closes(1002),
        );
    }
    for (n, chop) in chops.into_iter().enumerate() {
        let (first, second) = halves(3 + n);
        let whole = case(3 + n).frame(TEXT, &first).frame(FIN | CONTINUATION, &second);
        cases.push(whole.arrives("fragment1fragment2").chop(chop));
        let (first, second) = halves(6 + n);
        let pinged = case(6 + n).frame(TEXT, &first).frame(FIN | PING, b"between").pong(b"between");
        cases.push(pinged.frame(FIN | CONTINUATION, &second).arrives("fragment1fragment2").chop(chop));
        for (number, fin) in [(9, FIN), (12, 0)] {
            let message = case(number + n).signal(1, b"no", 0);
            let nothing =
                case(number + n).frame(fin | CONTINUATION, b"what for?").frame(FIN | TEXT, &message);
            cases.push(nothing.closes(1002).chop(chop));
        }
    }
    let (first, second) = halves(15);
    let again = case(15).signal(2, b"no", 0);
    let continued =
        case(15).frame(TEXT, &first).frame(FIN | CONTINUATION, &second).arrives("fragment1fragment2");
    cases.push(continued.frame(CONTINUATION, b"what for?").frame(FIN | TEXT, &again).closes(1002));
    for (number, fin) in [(16, 0), (17, FIN)] {
        let (first, second) = halves(number);
        let twice = (0..2).fold(case(number), |case, _| {
            case.frame(fin | CONTINUATION, b"?").frame(TEXT, &first).frame(FIN | CONTINUATION, &second)
        });
        cases.push(twice.closes(1002));
    }
    let (first, second) = halves(18);
    cases.push(case(18).frame(TEXT, &first).frame(FIN | TEXT, &second).closes(1002));
    for (number, chop) in [(19, 0), (20, 7)] {
        let message = case(number).signal(1, b"in five", 0);
        let piece = |n: usize| &message[n * 20..if n == 4 { message.len() } else { (n + 1) * 20 }];
        let five = case(number).frame(TEXT, piece(0)).frame(CONTINUATION, piece(1)).frame(FIN | PING, b"1");
        let five = five.frame(CONTINUATION, piece(2)).frame(CONTINUATION, piece(3)).frame(FIN | PING, b"2");
        cases.push(
            five.frame(FIN | CONTINUATION, piece(4)).pong(b"1").pong(b"2").arrives("in five").chop(chop),
        );
    }
    cases
}

/// A close frame's payload.
fn farewell(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

fn closes() -> Vec<Case> {
    let normal = farewell(1000, b"");
    let case = |number| Case::new("7.1", number);
    let message = case(4).signal(1, b"late", 0);
    let cut = case(5).signal(1, b"cut", 0);
    let large = case(6).signal(1, b"", 256 * KIB);
    let after = case(6).signal(2, b"no", 0);
    let mut cases = vec![
        case(1).text("before").frame(FIN | CLOSE, &normal).closes(1000),
        case(2).frame(FIN | CLOSE, &normal).frame(FIN | CLOSE, &normal).closes(1000),
        case(3).frame(FIN | CLOSE, &normal).frame(FIN | PING, b"late").closes(1000),
        case(4).frame(FIN | CLOSE, &normal).frame(FIN | TEXT, &message).closes(1000),
        case(5)
            .frame(TEXT, &cut[..60])
            .frame(FIN | CLOSE, &normal)
            .frame(FIN | CONTINUATION, &cut[60..])
            .closes(1000),
        case(6)
            .frame(FIN | TEXT, &large)
            .frame(FIN | TEXT, &after)
            .frame(FIN | CLOSE, &normal)
            .frame(FIN | PING, b"late")
            .closes(4201)
            .exception(SIZE),
    ];
    let close = |section, number, payload: &[u8], code| {
        Case::new(section, number).frame(FIN | CLOSE, payload).closes(code)
    };
    let invalid = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    cases.extend([
        close("7.3", 1, b"", 1005),
        close("7.3", 2, b"\x03", 1002),
        close("7.3", 3, &normal, 1000),
        close("7.3", 4, &farewell(1000, b"Hello, world!"), 1000),
        close("7.3", 5, &farewell(1000, &[b'*'; 123]), 1000),
        close("7.3", 6, &farewell(1000, &[b'*'; 124]), 1002),
        close("7.5", 1, &farewell(1000, invalid), 1002),
    ]);
    let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let bad = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    cases.extend(good.iter().zip(1..).map(|(code, n)| close("7.7", n, &farewell(*code, b""), *code)));
    cases.extend(bad.iter().zip(1..).map(|(code, n)| close("7.9", n, &farewell(*code, b""), 1002)));
    for (code, n) in [5000, 65_535].into_iter().zip(1..) {
        cases.push(close("7.13", n, &farewell(code, b""), 1002).exception(UNDEFINED));
    }
    cases
}

fn large() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, n) in [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB].into_iter().zip(1..) {
        let text = Case::new("9.1", n);
        let message = text.signal(1, b"", size);
        let text = text.frame(FIN | TEXT, &message);
        let binary = Case::new("9.2", n).frame(FIN | BINARY, &message);
        if size <= LIMIT {
            cases.push(text.arrives(""));
            cases.push(binary.closes(4200).exception(BINARY_IS_NONE));
        } else {
            cases.push(text.closes(4201).exception(SIZE));
            cases.push(binary.closes(4201).exception(SIZE));
        }
    }
    for (section, opcode) in [("9.3", TEXT), ("9.4", BINARY)] {
        let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
        for (size, n) in sizes.into_iter().zip(1..) {
            let case = Case::new(section, n);
            let message = case.signal(1, b"", 4 * MIB);
            // Binary is refused at the first header, unless that promises too much.
            let (code, why) =
                if opcode == BINARY && size <= LIMIT { (4200, BINARY_IS_NONE) } else { (4201, SIZE) };
            cases.push(case.fragments(opcode, &message, size).closes(code).exception(why));
        }
    }
    for (section, opcode) in [("9.5", TEXT), ("9.6", BINARY)] {
        for (chop, n) in [64, 128, 256, 512, KIB, 2 * KIB].into_iter().zip(1..) {
            let case = Case::new(section, n).chop(chop);
            let message = case.signal(1, b"", MIB);
            cases.push(case.frame(FIN | opcode, &message).closes(4201).exception(SIZE));
        }
    }
    // A thousand messages. What is shorter than the shortest signal is a shortest signal.
    cases.push(Case::new("9.7", 1).frame(FIN | TEXT, b"").closes(4200).exception(NOT_JSON));
    for (size, n) in [16, 64, 256, KIB, 4 * KIB].into_iter().zip(2..) {
        cases.push((1..=1000).fold(Case::new("9.7", n), |case, seq| {
            let message = case.signal(seq, b"", size);
            case.frame(FIN | TEXT, &message).arrives("")
        }));
    }
    for (size, n) in [0, 16, 64, 256, KIB, 4 * KIB].into_iter().zip(1..) {
        let case = (0..1000).fold(Case::new("9.8", n), |case, _| case.frame(FIN | BINARY, &vec![0xfe; size]));
        cases.push(case.closes(4200).exception(BINARY_IS_NONE));
    }
    let case = Case::new("10.1", 1);
    let message = case.signal(1, b"", LIMIT);
    cases.push(case.fragments(TEXT, &message, 1300).arrives(""));
    cases
}
