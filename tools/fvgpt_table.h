/* fvgpt table: the tables of a run of tune, from its results alone. */
#ifndef FVGPT_TABLE_H
#define FVGPT_TABLE_H

#include "fvgpt_tune_list.h"

extern const fvgpt_command table_command;

/* Prints and writes the tables of all entries from the results on the disk.  FVG_E_IO after a line
   for each that is missing. */
fvg_status write_all_tables(tuning *t);

#endif
