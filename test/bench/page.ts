import { readFile, writeFile } from 'node:fs/promises'

/** Puts a section into a page, in the place of the one with the same heading; whatever else stands there stays. */
export async function writeSection(file: string, section: string): Promise<void> {
  const page = await readFile(file, 'utf8').catch(() => '')
  await writeFile(file, withSection(page, section))
}

/** A section begins with a heading of the first level, and ends with the next one. */
export function withSection(page: string, section: string): string {
  const sections = page.split(/^(?=# )/m).filter((each) => each.trim() !== '')
  const place = sections.findIndex((each) => headingOf(each) === headingOf(section))
  const others = place === -1 ? [...sections, section] : sections.with(place, section)
  return `${others.map((each) => each.trim()).join('\n\n')}\n`
}

const headingOf = (section: string): string => section.split('\n')[0] ?? ''
