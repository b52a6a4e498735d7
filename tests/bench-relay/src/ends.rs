//! The two ends of the load's streams: what goes out of one, and when it came to the other.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use nix::time::{ClockId, clock_gettime};

use crate::turn::payload;
use crate::wire::{Frames, Wire};

/// One end of a stream of the load.
#[derive(Clone, Copy)]
pub(crate) enum End<'a> {
    /// A socket, and where it sends to if it is not connected.
    Datagrams(BorrowedFd<'a>, Option<SocketAddr>),
    Frames(&'a RefCell<Frames>),
}

impl<'a> End<'a> {
    pub(crate) fn of(wire: &'a Wire) -> Self {
        match wire {
            Wire::Datagrams(socket) => Self::Datagrams(socket.as_fd(), None),
            Wire::Frames(frames) => Self::Frames(frames),
        }
    }
}

pub(crate) struct Senders<'a> {
    /// Each with what stands before the payload.
    streams: Vec<(End<'a>, &'a [u8])>,
    /// It begins with the run and the time.
    payload: Vec<u8>,
    burst: usize,
    headers: MultiHeaders<SockaddrStorage>,
}

impl<'a> Senders<'a> {
    pub(crate) fn new(streams: Vec<(End<'a>, &'a [u8])>, bytes: usize, burst: usize) -> Self {
        let headers = MultiHeaders::preallocate(burst, None);
        Self { streams, payload: vec![0; bytes], burst: burst.min(BATCH), headers }
    }

    /// One burst; tells how many datagrams went out.
    pub(crate) fn send(&mut self, stream: usize, run: u32, began: Instant) -> Result<u64> {
        self.payload[..4].copy_from_slice(&run.to_be_bytes());
        let now = u64::try_from(began.elapsed().as_nanos())?;
        self.payload[4..12].copy_from_slice(&now.to_be_bytes());
        let (end, header) = self.streams[stream];
        let (socket, to) = match end {
            End::Datagrams(socket, to) => (socket.as_raw_fd(), to.map(SockaddrStorage::from)),
            // One record, or one segment, holds what a client has to say at a time.
            End::Frames(frames) => {
                frames.borrow_mut().write(&[header, &self.payload].concat().repeat(self.burst))?;
                return Ok(self.burst as u64);
            }
        };
        let vectors = [[IoSlice::new(header), IoSlice::new(&self.payload)]; BATCH];
        let addresses = [to; BATCH];
        let sent = sendmmsg(
            socket,
            &mut self.headers,
            &vectors[..self.burst],
            &addresses[..self.burst],
            [],
            MsgFlags::MSG_DONTWAIT,
        );
        match sent {
            Ok(sent) => Ok(sent.count() as u64),
            // ICMP about something earlier, or no room: not sent.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(0),
            Err(error) => Err(error).context("sending"),
        }
    }
}

pub(crate) struct Inbox<'a> {
    epoll: Epoll,
    ends: Vec<End<'a>>,
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; 2048]; BATCH]>,
    run: u32,
    began: Instant,
    pub(crate) latencies: Vec<u32>,
    /// CPU for what was received.
    pub(crate) work: Duration,
}

impl<'a> Inbox<'a> {
    pub(crate) fn new(ends: Vec<End<'a>>, run: u32, began: Instant) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        for (index, end) in ends.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            match end {
                End::Datagrams(socket, _) => epoll.add(socket, event)?,
                End::Frames(frames) => epoll.add(frames.borrow().socket(), event)?,
            }
        }
        let headers = MultiHeaders::preallocate(BATCH, None);
        let buffers = Box::new([[0; 2048]; BATCH]);
        Ok(Self {
            epoll,
            ends,
            headers,
            buffers,
            run,
            began,
            latencies: Vec::with_capacity(1 << 20),
            work: Duration::ZERO,
        })
    }

    /// Takes what is there; tells how much of it belongs to the run.
    pub(crate) fn drain(&mut self) -> Result<usize> {
        let before = self.latencies.len();
        let mut events = [EpollEvent::empty(); BATCH];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        if ready == 0 {
            return Ok(0);
        }
        let began = thread_cpu()?;
        for event in &events[..ready] {
            match self.ends[usize::try_from(event.data())?] {
                End::Datagrams(socket, _) => self.receive(socket.as_raw_fd())?,
                End::Frames(frames) => {
                    let now = self.began.elapsed().as_nanos();
                    while let Some(frame) = frames.borrow_mut().next()? {
                        note(frame, self.run, now, &mut self.latencies);
                    }
                }
            }
        }
        self.work += thread_cpu()? - began;
        Ok(self.latencies.len() - before)
    }

    fn receive(&mut self, socket: RawFd) -> Result<()> {
        let mut vectors = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let received = recvmmsg(socket, &mut self.headers, &mut vectors, MsgFlags::MSG_DONTWAIT, None);
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => return Ok(()),
            Err(error) => return Err(error).context("receiving"),
        };
        let now = self.began.elapsed().as_nanos();
        for message in received {
            let Some(datagram) = message.iovs().next() else { continue };
            note(datagram, self.run, now, &mut self.latencies);
        }
        Ok(())
    }
}

/// How long a datagram took that belongs to this run.
fn note(datagram: &[u8], run: u32, now: u128, latencies: &mut Vec<u32>) {
    let Some((of, rest)) = payload(datagram).split_first_chunk() else { return };
    let Some((sent, _)) = rest.split_first_chunk() else { return };
    if u32::from_be_bytes(*of) == run {
        let latency = now.saturating_sub(u64::from_be_bytes(*sent).into());
        latencies.push(u32::try_from(latency).unwrap_or(u32::MAX));
    }
}

/// What this thread has had of its core, to the nanosecond.
pub(crate) fn thread_cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Datagrams per system call.
pub(crate) const BATCH: usize = 32;
