//! What another member, or whoever reaches the peer port, sends: a message of a kind (the first byte), and frames. What was
//! understood is understood the same when it is sent on.

use bytes::Bytes;
use futures::executor::block_on;
use node::fuzzing::{FrameReader, MESSAGES, echo};

pub fn run(input: &[u8]) {
    let Some((kind, message)) = input.split_first() else { return };
    if *kind == MESSAGES {
        return frames(message);
    }
    if let Some(understood) = echo(kind % MESSAGES, Bytes::copy_from_slice(message)) {
        let again = echo(kind % MESSAGES, understood.clone()).expect("what was written can be read");
        assert_eq!(again, understood);
    }
}

/// Frames are what was sent, piece by piece, and nothing is allocated for what was only announced.
fn frames(mut stream: &[u8]) {
    let mut reader = FrameReader::new(stream);
    while let Ok(Some(frame)) = block_on(reader.next()) {
        let (head, rest) = stream.split_first_chunk::<4>().expect("a frame has a length");
        assert_eq!(u32::from_le_bytes(*head) as usize, frame.len());
        let (body, rest) = rest.split_at(frame.len());
        assert_eq!(body, frame);
        stream = rest;
    }
}
