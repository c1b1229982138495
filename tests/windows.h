/* Included before the tests where they are built for Windows (-include tests/windows.h), whose mkdir takes no mode. */
#include <direct.h>
#include <io.h>
#include <sys/stat.h>
#define mkdir(path, mode) _mkdir(path)
