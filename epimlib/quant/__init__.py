"""Numbers on the hardware's grid."""
