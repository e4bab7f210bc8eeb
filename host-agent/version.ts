/** The release of this agent; the coordinator and the peer may be of another one. */
export const VERSION = '0.1.0'
