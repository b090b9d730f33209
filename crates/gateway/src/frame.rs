//! Where one WebSocket frame ends and the next begins (RFC 6455, section 5.2).

/// The longest head of a frame: two bytes, a length of eight, a mask of four.
const MAX_HEAD_BYTES: usize = 14;
const CLOSE_OPCODE: u8 = 8;

/// A position in a stream of frames.
#[derive(Default)]
pub(crate) struct FramePosition {
    head: [u8; MAX_HEAD_BYTES],
    /// Number of bytes of the head that were seen.
    head_bytes: usize,
    /// Number of bytes of the payload to come; known once the head is complete.
    payload_left: Option<u64>,
}

impl FramePosition {
    /// Goes on to the end of the frame, or of these bytes if that comes first; by how many bytes.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> usize {
        if self.is_at_end() {
            (self.head_bytes, self.payload_left) = (0, None);
        }
        let mut taken = 0;
        while self.payload_left.is_none() && taken < bytes.len() {
            self.head[self.head_bytes] = bytes[taken];
            (self.head_bytes, taken) = (self.head_bytes + 1, taken + 1);
            self.payload_left = self.payload_bytes();
        }
        if let Some(left) = &mut self.payload_left {
            let rest = bytes.len() - taken;
            let more = usize::try_from(*left).unwrap_or(usize::MAX).min(rest);
            *left -= more as u64;
            taken += more;
        }
        taken
    }

    /// Whether no frame is under way.
    pub(crate) fn is_at_end(&self) -> bool {
        self.head_bytes == 0 || self.payload_left == Some(0)
    }

    /// Whether the last frame was a Close frame.
    pub(crate) fn was_close(&self) -> bool {
        self.head_bytes > 0 && self.head[0] & 0x0f == CLOSE_OPCODE
    }

    /// The length of the payload, once the head is complete.
    fn payload_bytes(&self) -> Option<u64> {
        let [_, second, ..] = self.head;
        let length_bytes = match second & 0x7f {
            _ if self.head_bytes < 2 => return None,
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        if self.head_bytes < 2 + length_bytes + mask_bytes {
            return None;
        }
        let long = self.head[2..2 + length_bytes].iter();
        let long = long.fold(0, |length, byte| length << 8 | u64::from(*byte));
        Some(if length_bytes == 0 { u64::from(second & 0x7f) } else { long })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unmasked frame with this payload, and its head's length.
    fn frame(opcode: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match u16::try_from(payload) {
            Ok(short @ ..126) => frame.push(short.to_be_bytes()[1]),
            Ok(medium) => {
                frame.push(126);
                frame.extend(medium.to_be_bytes());
            }
            Err(_) => {
                frame.push(127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        // Zeros would look like empty frames.
        frame.resize(frame.len() + payload, 0xff);
        frame
    }

    #[test]
    fn each_frame_ends_where_its_length_says() {
        let frames: Vec<_> = [0, 1, 125, 126, 300, 65_535, 65_536, 70_000, 2]
            .into_iter()
            .map(|payload| frame(1, payload))
            .collect();
        let stream = frames.concat();
        for chunk in [1, 2, 3, 7, 4096, usize::MAX] {
            let (mut position, mut ends, mut at) = (FramePosition::default(), Vec::new(), 0);
            assert!(position.is_at_end());
            while at < stream.len() {
                let end = at.saturating_add(chunk).min(stream.len());
                let taken = position.advance(&stream[at..end]);
                assert!(taken > 0);
                at += taken;
                if position.is_at_end() {
                    ends.push(at);
                }
            }
            let expected: Vec<_> = frames
                .iter()
                .scan(0, |end, frame| {
                    *end += frame.len();
                    Some(*end)
                })
                .collect();
            assert_eq!(ends, expected, "in pieces of {chunk}");
        }
    }

    #[test]
    fn a_masked_frame_is_longer_by_its_mask() {
        let mut position = FramePosition::default();
        assert_eq!(position.advance(&[0x81, 0x82, 1, 2, 3, 4, 5, 6, 0x81]), 8);
        assert!(position.is_at_end() && !position.was_close());
    }

    #[test]
    fn a_close_frame_is_known() {
        let mut position = FramePosition::default();
        assert!(!position.was_close());
        position.advance(&frame(8, 2));
        assert!(position.was_close());
        position.advance(&frame(1, 2));
        assert!(!position.was_close());
    }
}
