/** The release of this coordinator; the agents may be of another one. */
export const VERSION = '0.1.0'
