/** A verb that reads the log ends when the log is silent for so long. Coordinators and agents wait until it comes back. */
export const READING = { patienceMs: 10_000 }
