//! Wiring: start order, signals, stop order.
