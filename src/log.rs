//! key=value log lines, one per event (OBS-1).
