"""A WebRTC program of the documented shape: a signalling server, and peers that it spawns."""
