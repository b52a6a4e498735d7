//! Section 6: which sequences of octets are text (RFC 3629), whole, in fragments and octet by octet.

use super::raw::{CONTINUATION, FIN, TEXT, frame};
use super::{Case, NOT_JSON, WHOLE};

/// Five letters in eleven octets.
const WORD: &str = "κ\u{1f79}σμε";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("6.1", 1).frame(FIN | TEXT, b"").closes(4200).exception(NOT_JSON),
        Case::new("6.1", 2)
            .frame(TEXT, b"")
            .frame(CONTINUATION, b"")
            .frame(FIN | CONTINUATION, b"")
            .closes(4200)
            .exception(NOT_JSON),
    ];
    let empty_around = Case::new("6.1", 3);
    let message = empty_around.signal(1, b"middle frame", 0);
    let empty_around = empty_around.frame(TEXT, b"").frame(CONTINUATION, &message);
    cases.push(empty_around.frame(FIN | CONTINUATION, b"").arrives("middle frame"));

    let text = "Hello-µ@ßöäüàá-UTF-8!!";
    let [whole, halves, octets, word] = [1, 2, 3, 4].map(|n| Case::new("6.2", n));
    cases.push(whole.text(text));
    let message = halves.signal(1, text.as_bytes(), 0);
    // Behind a letter of two octets.
    let middle = message.windows(2).position(|pair| pair == "ß".as_bytes()).expect("it is in there") + 2;
    cases.push(
        halves.frame(TEXT, &message[..middle]).frame(FIN | CONTINUATION, &message[middle..]).arrives(text),
    );
    let message = octets.signal(1, text.as_bytes(), 0);
    cases.push(octets.fragments(TEXT, &message, 1).arrives(text));
    let message = word.signal(1, WORD.as_bytes(), 0);
    cases.push(word.fragments(TEXT, &message, 1).arrives(WORD));

    let invalid = [WORD.as_bytes(), b"\xed\xa0\x80edited"].concat();
    for (n, size) in [(1, usize::MAX), (2, 1)] {
        let case = Case::new("6.3", n);
        let message = case.signal(1, &invalid, 0);
        cases.push(case.fragments(TEXT, &message, size).closes(4200));
    }
    cases.extend(failing_fast());
    for (section, sequences) in sequences().into_iter().enumerate() {
        for (n, octets) in sequences.into_iter().enumerate() {
            let case = Case::new(&format!("6.{}", section + 5), n + 1);
            cases.push(match std::str::from_utf8(&octets) {
                Ok("\0") => {
                    let message = case.signal(1, b"\0", 0);
                    case.frame(FIN | TEXT, &message).closes(4200).exception(NOT_JSON)
                }
                Ok(text) => case.text(text),
                Err(_) => {
                    let message = case.signal(1, &octets, 0);
                    case.frame(FIN | TEXT, &message).closes(4200)
                }
            });
        }
    }
    cases
}

/// The rest of the message is never sent: the close has to come without it.
fn failing_fast() -> Vec<Case> {
    let whole = [WORD.as_bytes(), b"\xf4\x90\x80\x80edited"].concat();
    let mut cases = Vec::new();
    // Up to all of the sequence that is no letter, and up to its first wrong octet.
    for (n, first, second) in [(1, 11, 15), (2, 12, 13)] {
        let mut case = Case::new("6.4", n);
        let message = case.signal(1, &whole, 0);
        let from = message.len() - whole.len() - 2;
        case = case.frame(TEXT, &message[..from + first]);
        case = case.frame(CONTINUATION, &message[from + first..from + second]).closes(4200);
        case.probed = false;
        cases.push(case);
    }
    for n in [3, 4] {
        let mut case = Case::new("6.4", n).chop(1);
        let message = case.signal(1, &whole, 0);
        case.bytes = frame(FIN | TEXT, &message);
        case.probed = false;
        cases.push(case.closes(4200).exception(WHOLE));
    }
    cases
}

/// From 6.5 on, in the suite's order; which of them are text, the standard library says.
fn sequences() -> Vec<Vec<Vec<u8>>> {
    let prefixes = (1..=WORD.len()).map(|length| WORD.as_bytes()[..length].to_vec()).collect();
    let lonely = |(first, last)| (first..=last).flat_map(|octet: u8| [octet, b' ']).collect::<Vec<_>>();
    let no_characters: Vec<u32> =
        (0..=16).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]).collect();
    vec![
        ["hello$world", "hello¢world", "hello€world", "hello𤭢world", WORD]
            .map(|text| text.as_bytes().to_vec())
            .into(),
        prefixes,
        letters(&[0, 0x80, 0x800, 0x1_0000]),
        vec![vec![0xf8, 0x88, 0x80, 0x80, 0x80], vec![0xfc, 0x84, 0x80, 0x80, 0x80, 0x80]],
        letters(&[0x7f, 0x7ff, 0xffff, 0x10_ffff]),
        vec![vec![0xf7, 0xbf, 0xbf, 0xbf], long(0xfb, 0xbf, 2, 0xbf), long(0xfd, 0xbf, 3, 0xbf)],
        [letters(&[0xd7ff, 0xe000, 0xfffd, 0x10_ffff]), vec![vec![0xf4, 0x90, 0x80, 0x80]]].concat(),
        [
            vec![vec![0x80], vec![0xbf]],
            (2..=6).map(|length| [0x80, 0xbf].into_iter().cycle().take(length).collect()).collect(),
            vec![(0x80..=0xbf).collect()],
        ]
        .concat(),
        [(0xc0, 0xdf), (0xe0, 0xef), (0xf0, 0xf7), (0xf8, 0xfb), (0xfc, 0xfd)].map(lonely).into(),
        incomplete(),
        vec![incomplete().concat()],
        vec![vec![0xfe], vec![0xff], vec![0xfe, 0xfe, 0xff, 0xff]],
        overlong(0xaf),
        vec![
            vec![0xc1, 0xbf],
            long(0xe0, 0x9f, 0, 0xbf),
            long(0xf0, 0x8f, 1, 0xbf),
            long(0xf8, 0x87, 2, 0xbf),
            long(0xfc, 0x83, 3, 0xbf),
        ],
        overlong(0x80),
        surrogates(),
        surrogate_pairs(),
        letters(&no_characters),
        letters(&[0xfff9, 0xfffa, 0xfffb, 0xfffc, 0xfffd, 0xfffe, 0xffff]),
    ]
}

/// Sequences of two to six octets that lack their last, first with the least and then with the highest value.
fn incomplete() -> Vec<Vec<u8>> {
    [
        &[0xc0][..],
        &[0xe0, 0x80],
        &[0xf0, 0x80, 0x80],
        &[0xf8, 0x80, 0x80, 0x80],
        &[0xfc, 0x80, 0x80, 0x80, 0x80],
        &[0xdf],
        &[0xef, 0xbf],
        &[0xf7, 0xbf, 0xbf],
        &[0xfb, 0xbf, 0xbf, 0xbf],
        &[0xfd, 0xbf, 0xbf, 0xbf, 0xbf],
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// `lead` and `second`, then as often as said a continuation octet, then the last.
fn long(lead: u8, second: u8, more: usize, last: u8) -> Vec<u8> {
    [vec![lead, second], vec![if last == 0xbf { 0xbf } else { 0x80 }; more], vec![last]].concat()
}

/// One value in two to six octets, all of them too many.
fn overlong(last: u8) -> Vec<Vec<u8>> {
    let longer =
        [(0xe0, 0), (0xf0, 1), (0xf8, 2), (0xfc, 3)].map(|(lead, more)| long(lead, 0x80, more, last));
    [vec![vec![0xc0, last]], longer.into()].concat()
}

fn surrogates() -> Vec<Vec<u8>> {
    [[0xa0, 0x80], [0xad, 0xbf], [0xae, 0x80], [0xaf, 0xbf], [0xb0, 0x80], [0xbe, 0x80], [0xbf, 0xbf]]
        .map(surrogate)
        .into()
}

/// A high one and a low one, as UTF-16 has them.
fn surrogate_pairs() -> Vec<Vec<u8>> {
    let highs = [[0xa0, 0x80], [0xad, 0xbf], [0xae, 0x80], [0xaf, 0xbf]];
    let lows = [[0xb0, 0x80], [0xbf, 0xbf]];
    highs.iter().flat_map(|high| lows.map(|low| [surrogate(*high), surrogate(low)].concat())).collect()
}

fn surrogate([second, third]: [u8; 2]) -> Vec<u8> {
    vec![0xed, second, third]
}

fn letters(points: &[u32]) -> Vec<Vec<u8>> {
    points.iter().map(|point| char::from_u32(*point).expect("a letter").to_string().into_bytes()).collect()
}
