import type { Socket } from 'node:net'

/**
 * Where an image breaks, libxl ends the helper that it leaves the guest's memory to; and where that has not begun yet, it
 * calls a function that is not there, and libvirtd with it is gone (`libxl__save_helper_abort` of Xen 4.17). So its first
 * bytes are always taken; what comes behind the helper's last ones, with the guest suspended, is taken as well and thrown
 * away. In between the helper gives up in order, and the guest runs on.
 *
 * @param isPaused the guest stands still: the end is near.
 */
export function hangUpOn(image: Socket, isPaused: () => boolean): void {
  const look = () => {
    if (image.bytesRead >= HELPED_BYTES && !isPaused()) image.destroy()
  }
  image.removeAllListeners('readable')
  image.on('data', look).resume()
  look()
}

/** Behind libxl's header and its first record. */
const HELPED_BYTES = 4096
